"""Floor 2: reads rows, makes them conversations, accounts for every one, splits and tokenises them."""
