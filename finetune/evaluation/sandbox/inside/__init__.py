"""What runs inside the sandbox: standard library only, since nothing else can be seen there."""
