"""data.pii over conversations: counting, placeholders, refusal, and that no value ever leaks."""

import json
import logging
import subprocess
import sys

import pytest

from finetune.errors import ConfigError, DataError
from finetune.records import Conversation, Message

pytest.importorskip("presidio_analyzer")

from finetune.data.privacy import NOT_FOUND, PersonalData, engine

MAIL, PHONE, CARD = "amara.okafor@example.com", "(212) 555-0142", "4111 1111 1111 1111"


def chat(*turns: str, source: str = "rows.jsonl:3", **more: object) -> Conversation:
    messages = tuple(
        Message(role="assistant" if number % 2 else "user", content=turn) for number, turn in enumerate(turns)
    )
    return Conversation(item_id=source, source=source, messages=messages, **more)  # type: ignore[arg-type]


def redact(conversation: Conversation) -> Conversation:
    return PersonalData("redact").check(conversation)


def test_off_looks_at_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "analyze", None)
    row = chat(f"write to {MAIL}", "ok")
    for word in ("off", "False"):
        data = PersonalData(word)
        assert data.check(row) is row
        assert data.counts == {} and data.rows == 0


def test_report_counts_and_changes_nothing() -> None:
    data = PersonalData("report")
    row = chat(f"write to {MAIL} or call {PHONE}", "Done.")
    assert data.check(row) is row
    data.check(chat("Nothing to see.", "No."))
    data.finish()
    assert data.counts == {"email": 1, "phone": 1}
    assert data.rows == 1
    assert data.examples == {"email": ["rows.jsonl:3"], "phone": ["rows.jsonl:3"]}


def test_examples_are_three_sources_and_no_values() -> None:
    data = PersonalData("report")
    for line in range(1, 6):
        data.check(chat(f"{MAIL} and {MAIL}", "ok", source=f"rows.jsonl:{line}"))
    assert data.examples == {"email": ["rows.jsonl:1", "rows.jsonl:2", "rows.jsonl:3"]}
    assert data.counts == {"email": 10} and data.rows == 5


def test_the_same_value_has_the_same_placeholder_in_every_turn() -> None:
    row = redact(chat(f"{MAIL} or other@example.org?", f"{MAIL}", "Phone 212-555-0142.", f"You mean {PHONE}"))
    assert [message.content for message in row.messages] == [
        "[EMAIL_1] or [EMAIL_2]?",
        "[EMAIL_1]",
        "Phone [PHONE_1].",
        "You mean [PHONE_1]",
    ]


def test_rows_of_one_document_share_placeholders_and_others_do_not() -> None:
    data = PersonalData("redact")
    first = data.check(chat(f"{MAIL} x@example.org", "ok", source="a:1", group="patient 7"))
    second = data.check(chat("x@example.org", "ok", source="a:2", group="patient 7"))
    other = data.check(chat("x@example.org", "ok", source="a:3"))
    assert first.messages[0].content == "[EMAIL_1] [EMAIL_2]"
    assert second.messages[0].content == "[EMAIL_2]"
    assert other.messages[0].content == "[EMAIL_1]"


def test_a_question_gives_its_answer_context() -> None:
    row = redact(chat("What is the patient's medical record number?", "00482911"))
    assert row.messages[1].content == "[MEDICAL_RECORD_NUMBER_1]"


def test_a_value_found_once_is_found_everywhere() -> None:
    row = redact(
        chat("MRN: 00482911. Summarise.", "The chart is long, longer than any other one of this ward. 00482911.")
    )
    assert "00482911" not in row.messages[1].content


def test_plain_text_and_system_turns_are_redacted() -> None:
    assert redact(Conversation(item_id="a", source="a", text=f"Mail {MAIL}.")).text == "Mail [EMAIL_1]."
    row = Conversation(
        item_id="a",
        source="a",
        messages=(Message(role="system", content=f"Owner {MAIL}"), Message(role="assistant", content="ok")),
    )
    assert redact(row).messages[0].content == "Owner [EMAIL_1]"


def test_redacting_twice_changes_nothing_and_never_reuses_a_number() -> None:
    once = redact(chat(f"{MAIL}, {PHONE}, card {CARD}", "ok"))
    assert redact(once) == once
    assert redact(chat(f"[EMAIL_1] wrote to {MAIL}", "ok")).messages[0].content == "[EMAIL_1] wrote to [EMAIL_2]"


def test_the_right_answer_stays_one_of_the_options() -> None:
    options = (MAIL, "other@example.org", "none of these")
    row = redact(chat("Which address is in the letter?", MAIL, options=options))
    assert row.options == ("[EMAIL_1]", "[EMAIL_2]", "none of these")
    assert row.answer in row.options


def test_options_that_differ_in_notation_alone_stay_different() -> None:
    options = ("(212) 555-0142", "212-555-0142", "212.555.0142")
    row = redact(chat("Which notation of the phone number is right?", options[1], options=options))
    assert len(set(row.options)) == 3
    assert row.answer == row.options[1]


def test_tool_calls_and_tools_stay_json() -> None:
    calls = [{"name": "book", "arguments": {"mrn": 12345678, "email": MAIL, "urgent": True, "dose": 2.5, "n": 3}}]
    nested = [{"function": {"name": "book", "arguments": json.dumps({"phone": PHONE, "quote": 'say "hi"'})}}]
    tools = [{"name": "book", "description": f"Ask {MAIL}", "parameters": {"type": "object", "maxItems": 1234567}}]
    row = redact(
        Conversation(
            item_id="a",
            source="a",
            tools=json.dumps(tools),
            messages=(
                Message(role="user", content=f"Book for {MAIL}"),
                Message(role="assistant", content="", tool_calls=json.dumps(calls)),
                Message(role="tool", content='{"ssn": 536904399}'),
                Message(role="assistant", content="done", tool_calls=json.dumps(nested)),
            ),
        )
    )
    arguments = json.loads(row.messages[1].tool_calls or "")[0]["arguments"]
    assert arguments == {"mrn": "[MEDICAL_RECORD_NUMBER_1]", "email": "[EMAIL_1]", "urgent": True, "dose": 2.5, "n": 3}
    assert json.loads(row.messages[2].content) == {"ssn": "[US_SSN_1]"}
    inner = json.loads(json.loads(row.messages[3].tool_calls or "")[0]["function"]["arguments"])
    assert inner == {"phone": "[PHONE_1]", "quote": 'say "hi"'}
    assert json.loads(row.tools or "")[0]["description"] == "Ask [EMAIL_1]"


def test_json_without_personal_data_keeps_its_bytes() -> None:
    text = '[{"name":"a",  "arguments": {"x": 1.0, "y": "ü"}}]'
    message = Message(role="assistant", content=f"Mail {MAIL}", tool_calls=text)
    row = redact(Conversation(item_id="a", source="a", messages=(message,)))
    assert row.messages[0].tool_calls == text
    assert "[EMAIL_1]" in row.messages[0].content


def test_refuse_says_what_and_where_but_never_the_value() -> None:
    data = PersonalData("refuse")
    for line in range(1, 5):
        assert data.check(chat(f"write to {MAIL}, SSN 536-90-4399", "ok", source=f"rows.jsonl:{line}"))
    with pytest.raises(DataError) as error:
        data.finish()
    text = str(error.value)
    assert "4 rows hold" in text and "email 4 (rows.jsonl:1, rows.jsonl:2, rows.jsonl:3, …)" in text
    assert "us_ssn 4" in text and "data.pii=redact" in text
    assert "okafor" not in text and "4399" not in text


def test_refuse_is_content_with_clean_rows() -> None:
    data = PersonalData("refuse")
    data.check(chat("The statute, 42 U.S.C. § 1983, of 12 March 2019.", "Yes."))
    data.finish()


def test_nothing_is_logged_or_printed_with_values(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture
) -> None:
    for name in ("", "presidio-analyzer", "decision_process", "tldextract", "finetune"):
        caplog.set_level(logging.DEBUG, logger=name or None)
    engine._engine.cache_clear()
    PersonalData("redact").check(chat(f"{MAIL} {PHONE} {CARD} IBAN DE89 3704 0044 0532 0130 0Ö", "IBAN XX00 ÄÄÄÄ 1234"))
    printed = "".join(capfd.readouterr()) + caplog.text
    assert not any(value in printed for value in (MAIL, "555-0142", "1111 1111", "3704", "1234"))


def test_the_analyzer_can_log_nothing_at_all() -> None:
    PersonalData("report").check(chat(MAIL, "ok"))
    assert not logging.getLogger("presidio-analyzer").isEnabledFor(logging.CRITICAL)


def test_no_list_of_domains_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("requests.Session.get", lambda self, url, **_: asked.append(url))
    monkeypatch.setattr("socket.socket.connect", lambda self, address: asked.append(str(address)))
    engine._suffixes.cache_clear()
    engine._engine.cache_clear()
    data = PersonalData("report")
    data.check(chat(f"{MAIL} and x@host.internalonly", "ok"))
    assert data.counts == {"email": 1}
    assert asked == [] and engine._suffixes().suffix_list_urls == ()


def test_a_failing_recogniser_is_named_without_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def analyze(self, text: str, **_: object) -> None:
            raise ValueError(f"Did not find word '{text}'")

    monkeypatch.setattr(engine, "_engine", Broken)
    with pytest.raises(DataError, match=r"rows\.jsonl:3: the search for personal data failed with ValueError") as error:
        PersonalData("report").check(chat(MAIL, "ok"))
    seen: BaseException | None = error.value
    while seen is not None:
        assert MAIL not in str(seen)
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)


def test_a_missing_extra_names_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'finetune\[privacy\]'"):
        PersonalData("report")
    PersonalData("off")


def test_an_unknown_policy_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="'mask' is unknown"):
        PersonalData("mask")


def test_names_are_said_not_to_be_found() -> None:
    assert "names of people" in NOT_FOUND and "no guarantee" in NOT_FOUND
    data = PersonalData("report")
    data.check(chat("Amara Okafor of 12 Elm Street visited Dr. Lindqvist.", "ok"))
    assert data.counts == {}


def test_the_package_imports_without_the_extra() -> None:
    code = (
        "import sys; sys.modules.update(presidio_analyzer=None, spacy=None, phonenumbers=None, tldextract=None)\n"
        "from finetune.data.privacy import PersonalData, measured_recall\n"
        "PersonalData('off'); assert measured_recall()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize(
    "text",
    [
        "See Section 10.2.1.3 and version 10.0.19041.2364 of 2024-05-01.",
        "Baltimore, MD 21244-1850, 7500 Security Boulevard",
        "42 U.S.C. § 1395w-4(k)(2); 410 U.S. 113, 152-53 (1973)",
        "The court met on 12.03.2019; the agreement of March 12, 2019 was signed.",
        "between 2006-2011 (n=1204), PMID: 10808977, doi:10.1000/182.2021.0043",
        "$123,456,789.00 payable; 0000950123-09-012345; 978-3-16-148410-0",
    ],
)
def test_what_only_looks_like_personal_data_is_left_alone(text: str) -> None:
    data = PersonalData("report")
    data.check(Conversation(item_id="a", source="a", text=text))
    assert data.counts == {}
