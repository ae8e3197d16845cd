"""Conversations about nothing in particular, on which an export is compared where no data are given."""

from finetune.records import Conversation, Message

_PAIRS = (
    ("What is the capital of France?", "The capital of France is Paris."),
    ("Write one sentence about rain.", "The rain fell on the roof all night, and nobody in the house could sleep."),
    ("Add 17 and 25.", "17 + 25 = 42."),
    ("Name three colours.", "Red, green and blue."),
    (
        "What does a notice period mean in a contract?",
        "It is the time between saying that a contract ends and its end.",
    ),
    ("Translate to German: good morning", "Guten Morgen"),
    ("Write a Python function that doubles a number.", "def double(number):\n    return 2 * number"),
    ("Which month follows April?", "May follows April."),
    (
        "Why is the sky blue?",
        "Air scatters short waves of light more than long ones, so that blue comes from everywhere.",
    ),
    ("Give the opposite of early.", "Late."),
    ("What is a fever?", "A body temperature above 38 °C, most often a sign that the body fights an infection."),
    ("Spell the word library.", "l-i-b-r-a-r-y"),
    ("How many days has a leap year?", "A leap year has 366 days."),
    ("Finish the list: Monday, Tuesday,", "Wednesday, Thursday, Friday, Saturday, Sunday"),
    ("What is JSON?", 'A text format for data, such as {"name": "Ada", "age": 36}.'),
    ("Say in one word what a cat says.", "Meow."),
)


def neutral_rows() -> list[Conversation]:
    """Return sixteen short conversations of one question and one answer."""
    return [
        Conversation(
            item_id=f"neutral-{number}",
            source=f"neutral:{number}",
            messages=(Message(role="user", content=question), Message(role="assistant", content=answer)),
        )
        for number, (question, answer) in enumerate(_PAIRS, start=1)
    ]
