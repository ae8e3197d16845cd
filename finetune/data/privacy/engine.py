"""The one file that knows presidio: an analyzer that works offline, with its recognisers and our own.

Presidio's default engine downloads a spaCy model; this one runs patterns and checksums only, on an engine without a
model. Its logger writes what it reads, so it is silenced: no value ever reaches a log.
"""

import importlib.util
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from finetune.data.privacy import contact, legal, medical, national, phones, secrets
from finetune.data.privacy.rules import Rule, near, words
from finetune.errors import ConfigError

if TYPE_CHECKING:
    from presidio_analyzer import AnalyzerEngine

RULES: tuple[Rule, ...] = (*contact.RULES, *medical.RULES, *legal.RULES, *secrets.RULES, *national.RULES)
_LANGUAGE = "en"
_THRESHOLD = 0.4


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Personal data at `text[start:end]`, in characters."""

    start: int
    end: int
    kind: str
    score: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Builtin:
    """One of presidio's recognisers, by its class name, and the context words it needs here."""

    kind: str
    context: re.Pattern[str] | None = None
    score: float | None = None
    """What a finding counts against others; None keeps presidio's."""


_BUILTINS = {
    "IbanRecognizer": _Builtin(kind="iban", score=0.96),
    "CryptoRecognizer": _Builtin(kind="crypto_address", score=0.96),
    "UsItinRecognizer": _Builtin(kind="us_itin"),
    "UsMbiRecognizer": _Builtin(kind="us_medicare_id", score=0.9),
    "UsNpiRecognizer": _Builtin(
        kind="npi",
        context=words("npi", "national provider", "provider", "prescrib*", "physician", "taxonomy"),
        score=0.92,
    ),
    "UkNinoRecognizer": _Builtin(kind="uk_nino", score=0.9),
    "UkDrivingLicenceRecognizer": _Builtin(kind="driving_licence", score=0.9),
    "FiPersonalIdentityCodeRecognizer": _Builtin(kind="fi_hetu", score=0.9),
}
KINDS: tuple[str, ...] = tuple(
    dict.fromkeys((*(rule.kind for rule in RULES), "phone", *(builtin.kind for builtin in _BUILTINS.values())))
)
"""Every kind that is looked for."""


def check_installed() -> None:
    """Say quickly, without importing anything, whether the extra is there.

    Raises:
        ConfigError: presidio-analyzer is not installed.
    """
    missing = [name for name in ("presidio_analyzer", "spacy") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"data.pii: {missing[0]} is not installed; run pip install 'finetune[privacy]', or set data.pii=off"
        )


def analyze(text: str) -> list[Finding]:
    """Return what the recognisers find in one text, unordered and overlapping.

    Raises:
        RuntimeError: a recogniser failed; the message names no text.
    """
    engine = _engine()
    try:
        results = engine.analyze(text, language=_LANGUAGE, entities=list(KINDS))
    except Exception as error:  # Their messages quote the text that they choke on.
        raise RuntimeError(f"the search for personal data failed with {type(error).__name__}") from None
    return [Finding(start=one.start, end=one.end, kind=one.entity_type, score=one.score) for one in results]


@cache
def _engine() -> "AnalyzerEngine":
    """Build the analyzer once per process; takes about two seconds, for the import of spaCy."""
    logger = logging.getLogger("presidio-analyzer")
    logger.disabled = True
    logger.propagate = False
    for name in ("tldextract", "phonenumbers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
    from presidio_analyzer.nlp_engine import NoOpNlpEngine

    nlp_engine = NoOpNlpEngine(models=[{"lang_code": _LANGUAGE, "model_name": ""}])
    registry = RecognizerRegistry(recognizers=_recognisers(), supported_languages=[_LANGUAGE])
    return AnalyzerEngine(
        registry=registry,
        nlp_engine=nlp_engine,
        default_score_threshold=_THRESHOLD,
        supported_languages=[_LANGUAGE],
        context_aware_enhancer=_no_enhancer(),
    )


def _recognisers() -> list[Any]:
    from presidio_analyzer import predefined_recognizers

    ours = [_ours(kind) for kind in dict.fromkeys(rule.kind for rule in RULES)]
    theirs = [_theirs(getattr(predefined_recognizers, name), builtin) for name, builtin in _BUILTINS.items()]
    return [*ours, _phones(), *theirs]


def _ours(kind: str) -> Any:
    """Make a presidio recogniser of all rules of a kind."""
    from presidio_analyzer import EntityRecognizer, RecognizerResult

    rules = [_with_domain_check(rule) for rule in RULES if rule.kind == kind]

    class RuleRecognizer(EntityRecognizer):
        def load(self) -> None:
            pass

        def analyze(self, text: str, entities: list[str], nlp_artifacts: object = None) -> list[RecognizerResult]:
            return [
                RecognizerResult(kind, start, end, score)
                for rule in rules
                for start, end in _spans(rule, text)
                if (score := rule.judge(text, start, end))
            ]

    return RuleRecognizer(supported_entities=[kind], name=f"finetune_{kind}", supported_language=_LANGUAGE)


def _spans(rule: Rule, text: str) -> list[tuple[int, int]]:
    group = "value" if "value" in rule.pattern.groupindex else 0
    return [found.span(group) for found in rule.pattern.finditer(text)]


def _with_domain_check(rule: Rule) -> Rule:
    """Add to the rule of e-mail addresses that the domain ends in a public suffix."""
    if rule.kind != "email" or "domain" not in rule.pattern.groupindex:
        return rule
    from dataclasses import replace

    return replace(rule, check=lambda value: _is_public_domain(value.rpartition("@")[2]))


def _is_public_domain(domain: str) -> bool:
    return bool(_suffixes()(domain).fqdn)


@cache
def _suffixes() -> Any:
    """The public suffix list that tldextract brings along; its default fetches a newer one from the internet."""
    import tldextract

    return tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None, fallback_to_snapshot=True)


def _phones() -> Any:
    from presidio_analyzer import EntityRecognizer, RecognizerResult

    class PhoneNumbers(EntityRecognizer):
        def load(self) -> None:
            pass

        def analyze(self, text: str, entities: list[str], nlp_artifacts: object = None) -> list[RecognizerResult]:
            return [RecognizerResult("phone", start, end, score) for start, end, score in phones.find_phones(text)]

    return PhoneNumbers(supported_entities=["phone"], name="finetune_phone", supported_language=_LANGUAGE)


def _theirs(recognizer_class: Any, builtin: _Builtin) -> Any:
    """Return one of presidio's recognisers that reports our kind and needs our context words."""
    recognizer = recognizer_class(supported_language=_LANGUAGE, supported_entity=builtin.kind)
    own_words = words(*recognizer.context) if recognizer.context else None
    inner = recognizer.analyze

    def analyze(text: str, entities: Sequence[str], nlp_artifacts: object = None, **options: object) -> list[Any]:
        kept = []
        for result in inner(text, entities, nlp_artifacts, **options) or []:
            nearby = builtin.context or own_words
            has_context = nearby is not None and near(nearby, text, result.start, result.end) > 0
            if builtin.context is not None and not has_context:
                continue
            if has_context and result.score > 0:
                result.score = min(max(result.score + 0.35, _THRESHOLD), 1.0)
            if result.score >= _THRESHOLD:
                result.score = builtin.score or result.score
                kept.append(result)
        return kept

    recognizer.analyze = analyze
    return recognizer


def _no_enhancer() -> Any:
    """Context words are looked for by the recognisers themselves, by characters; presidio's way needs a model."""
    from presidio_analyzer.context_aware_enhancers import ContextAwareEnhancer

    class NoEnhancer(ContextAwareEnhancer):
        def __init__(self) -> None:
            super().__init__(0.0, 0.0, 0, 0)

        def enhance_using_context(self, text, raw_results, nlp_artifacts, recognizers, context=None) -> Any:
            return raw_results

    return NoEnhancer()
