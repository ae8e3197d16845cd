"""Bar S4: chat templates of others run in a sandbox, in bounded time and memory, and are the same at export."""

import copy
import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from finetune.data.rendering import bounds
from finetune.data.rendering.bounds import TemplateBomb, bounded, check_source
from finetune.data.rendering.chat_template import ensure_chat_template
from finetune.data.rendering.render import render_text, template_of
from finetune.errors import ModelError
from finetune.records import Message

CHAT = (Message(role="user", content="What law?"), Message(role="assistant", content="That of Texas"))
PLAIN = "{% for message in messages %}{{ message.role + message.content + eos_token }}{% endfor %}"
INJECTIONS = {
    "class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "class by attribute": "{{ ''|attr('__class__')|attr('__mro__') }}",
    "class by item": "{{ ''['__class__']['__base__'] }}",
    "globals of a function": "{{ raise_exception.__globals__['os'].system('touch CANARY') }}",
    "globals of the clock": "{{ strftime_now.__globals__ }}",
    "builtins": "{{ cycler.__init__.__globals__.os.popen('touch CANARY').read() }}",
    "lipsum": "{{ lipsum.__globals__['os'].popen('touch CANARY') }}",
    "joiner": "{{ joiner.__init__.__globals__ }}",
    "namespace": "{{ namespace.__init__.__globals__ }}",
    "namespace write": "{% set ns = namespace(__class__=1) %}{% set ns.__init__ = 1 %}{{ ns.__class__ }}",
    "self": "{{ self.__init__.__globals__ }}",
    "self's context": "{{ self._TemplateReference__context.environment.loader.__class__ }}",
    "generator": "{{ (messages|map('upper')).gi_frame.f_globals }}",
    "format string": "{{ '{0.__class__.__init__.__globals__}'.format(raise_exception) }}",
    "format map": "{{ '{a.__class__.__mro__}'.format_map({'a': 1}) }}",
    "format filter": "{{ '%(a)s'|format(a=raise_exception.__globals__) }}",
    "map attribute": "{{ [raise_exception]|map(attribute='__globals__')|list }}",
    "sort attribute": "{{ [raise_exception]|sort(attribute='__globals__.x') }}",
    "select by attribute": "{{ [raise_exception]|selectattr('__globals__.os.environ.HOME')|list }}",
    "group by attribute": "{{ messages|groupby('__class__.__mro__')|list }}",
    "import": "{% import 'os' as os %}{{ os.system('touch CANARY') }}",
    "include": "{% include '/etc/passwd' %}",
    "extends": "{% extends '/etc/passwd' %}",
    "from": "{% from 'os' import system %}{{ system('touch CANARY') }}",
    "macro's own": "{% macro m() %}{% endmacro %}{{ m.__init__.__globals__ }}",
    "caller": "{% macro m() %}{{ caller.__func__.__globals__ }}{% endmacro %}{% call m() %}{% endcall %}",
    "undefined": "{{ nothing.__init__.__globals__ }}",
    "messages changed": "{{ messages.append(1) }}{{ messages.pop() }}{{ messages[0].update(content='evil') }}",
    "messages cleared": "{% set _ = messages.clear() %}",
    "tokenizer": "{{ tokenizer.init_kwargs }}",
    "environment": "{{ environ }}{{ config.__class__ }}",
}
_LOOP = "{% for a in range(99999) %}"
ENDLESS = {
    "nested loops": _LOOP * 4 + "{% endfor %}" * 4,
    "loops that write": _LOOP * 3 + "x" + "{% endfor %}" * 3,
    "loops that count": "{% set ns = namespace(n=0) %}" + _LOOP * 3 + "{% set ns.n = ns.n + 1 %}" + "{% endfor %}" * 3,
    "range of a billion": "{% for i in range(10**9) %}x{% endfor %}",
    "range of ranges": "{{ range(90000)|map('string')|list|product }}",
    "power": "{{ 9**9**9 }}",
    "power in a loop": "{% for a in messages %}{% set b = 9**99999999 %}{% endfor %}",
    "string times": "{{ 'x' * 10000000000 }}",
    "list times": "{{ [1] * 1000000000 }}",
    "doubling": "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "doubling by +": "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "doubling by replace": "{% set ns = namespace(s='xx') %}{% for i in range(60) %}"
    "{% set ns.s = ns.s.replace('x', 'xxxx') %}{% endfor %}",
    "doubling lists": "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "squaring": "{% set ns = namespace(n=7) %}{% for i in range(60) %}{% set ns.n = ns.n * ns.n %}{% endfor %}",
    "padding": "{{ 'x'.ljust(9999999999) }}",
    "padding by format": "{{ '%9999999999s' % 'x' }}",
    "padding by format method": "{{ '{:>9999999999}'.format('x') }}",
    "padding by filter": "{{ 'x'|center(9999999999) }}",
    "indent": "{{ ('x\\n' * 99999)|indent(99999) }}",
    "json indent": "{{ messages|tojson(indent=999999999) }}",
    "zeros": "{{ 'x'.zfill(9999999999) }}",
    "tabs": "{{ '\\t'.expandtabs(9999999999) }}",
    "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "branching recursion": "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "recursive loop": "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "deep text": "{{ " + "(" * 30_000 + "1" + ")" * 30_000 + " }}",
    "long text": "{{ 'x' }}" * 200_000,
    "batches": "{% for i in range(99999) %}{{ range(99999)|batch(2)|list|length }}{% endfor %}",
    "only for long chats": "{% if messages|length > 1 %}" + _LOOP * 4 + "{% endfor %}" * 4 + "{% endif %}",
}


@pytest.fixture
def tokenizer(tiny_tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    from transformers import AutoTokenizer

    monkeypatch.setattr(bounds, "SECONDS", 0.2)
    monkeypatch.setattr(bounds, "HEADROOM_BYTES", 600_000_000)
    monkeypatch.chdir(tmp_path)
    return AutoTokenizer.from_pretrained(tiny_tokenizer_dir)


def rendered(tokenizer: Any, template: str) -> str:
    tokenizer.chat_template = template
    return render_text(CHAT, None, template_of(tokenizer))


@pytest.mark.bar("S4")
@pytest.mark.parametrize("name", INJECTIONS)
def test_a_template_gets_nowhere(name: str, tokenizer: Any, tmp_path: Path) -> None:
    """It is refused, or what it reaches for is empty; messages stay as they are."""
    before = copy.deepcopy(CHAT)
    try:
        text = rendered(tokenizer, PLAIN + INJECTIONS[name])
    except Exception as error:
        text = str(error)
    for word in ("<class", "<module", "root:", "environ({", "subclasses", "builtins", "HOME", "/usr"):
        assert word not in text, text[:300]
    assert before == CHAT
    assert not list(tmp_path.iterdir())


@pytest.mark.bar("S4")
@pytest.mark.slow
@pytest.mark.parametrize("name", ENDLESS)
def test_a_template_that_does_not_end_is_ended(name: str, tokenizer: Any) -> None:
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    tokenizer.chat_template = ENDLESS[name]
    with pytest.raises(ModelError):
        ensure_chat_template(tokenizer, "auto")
    assert time.process_time() - started < 3
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 800_000
    assert resource.getrlimit(resource.RLIMIT_AS) == limit


class Busy:
    """Uses up the processor in its finalizer, out of which no exception comes."""

    def __del__(self) -> None:
        while time.process_time() < UNTIL[0]:
            pass


UNTIL = [0.0]


@pytest.mark.bar("S4")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interruption_that_a_finalizer_swallowed_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "SECONDS", 0.1)
    before = signal.getsignal(signal.SIGVTALRM)
    started = time.process_time()
    UNTIL[0] = started + 0.3
    with pytest.raises(TemplateBomb), bounded():
        one = Busy()
        del one
        while time.process_time() < started + 3:
            pass
    assert time.process_time() - started < 2
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0) and signal.getsignal(signal.SIGVTALRM) is before


@pytest.mark.bar("S4")
def test_the_limits_say_what_to_do() -> None:
    with (
        pytest.raises(TemplateBomb, match=r"more than 1500 MB\. Use another template"),
        bounded(),
    ):
        raise MemoryError
    with pytest.raises(ModelError, match=r"powers \(\*\*\)"):
        check_source("{{ 2**3 }}")
    with pytest.raises(ModelError, match="no Jinja template"):
        check_source("{% unknown %}{{ 9**9 }}")
    check_source("{% for a in b %}{% generation %}{{ 2 * 3 }}{% endgeneration %}{% break %}{% endfor %}")


@pytest.mark.bar("S4")
@pytest.mark.slow
def test_a_template_that_changed_since_the_training_is_not_exported(runs: Any, tmp_path: Path) -> None:
    model = shutil.copytree(runs.model, tmp_path / "model")
    words = [f"model.path={model}", "training.max_steps=1", "export.formats=[safetensors]"]
    assert runs.train("template", *words).code == 0
    changed = 0
    for path in (model / "chat_template.jinja", model / "tokenizer_config.json"):
        text = path.read_text() if path.is_file() else ""
        if path.suffix == ".jinja" and text:
            path.write_text(text.replace("<|im_start|>", "<|im_end|><|im_start|>"))
            changed += 1
        elif "chat_template" in text:
            content = json.loads(text)
            content["chat_template"] = content["chat_template"].replace("<|im_start|>", "<|im_end|><|im_start|>")
            path.write_text(json.dumps(content))
            changed += 1
    assert changed
    ended = runs.call("export", "template", *words)
    assert ended.code != 0 and "template" in ended.said.splitlines()[-1], ended.said
