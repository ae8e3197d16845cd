"""Rules for medical records: record numbers, health plans, prescribers, and dates of birth in several notations."""

import re

from finetune.data.privacy.checksums import au_medicare, de_health_insurance, uk_nhs, us_dea
from finetune.data.privacy.rules import LEFT, RIGHT, rule, words

_RECORD_WORDS = words(
    "mrn", "m.r.n.", "medical record", "medical records", "med rec", "medical rec", "mr #", "mr no*", "mr number",
    "pt record", "pt id", "pt no*", "patient id", "patient identifier",
    "patient no*", "patient number", "pat id", "chart no*", "chart number", "chart #", "chart id", "hospital no*",
    "hospital number", "hospital id", "unit number", "record no*", "record number", "encounter no*", "encounter number",
    "encounter id", "case record number", "health record number", "uhid", "emr id", "ehr id",
    "patientennummer", "patienten nr", "patienten id", "patientenakte", "fallnummer", "fall nr", "aufnahmenummer",
    "numéro de dossier", "dossier médical", "dossier patient", "ipp", "numéro de patient",
    "historia clínica", "número de historia", "nhc", "número de paciente",
    "cartella clinica", "numero paziente", "prontuário", "病历号", "住院号", "患者番号", "رقم الملف",
)  # fmt: skip
_PLAN_WORDS = words(
    "member id", "member no*", "member number", "member identification", "plan member", "insured member", "member #",
    "membership number", "subscriber id", "subscriber no*",
    "subscriber number", "subscriber #", "health plan", "health insurance", "insurance id", "insurance no*",
    "insurance number", "beneficiary id", "beneficiary number", "policy holder id", "insured id",
    "medicaid id", "medicaid no*", "medicaid number", "plan id", "hicn", "enrollee id",
    "versichertennummer", "versicherten nr", "krankenversicherung*", "krankenkasse*", "numéro d'adhérent",
    "mutuelle", "blue cross", "blue shield", "aetna", "cigna", "humana", "unitedhealthcare", "kaiser permanente",
    "assurance maladie", "número de afiliado", "tarjeta sanitaria", "tessera sanitaria",
)  # fmt: skip
_BIRTH_WORDS = words(
    "dob", "d.o.b", "date of birth", "dates of birth", "birth date", "birthdate", "birthday", "born", "birth",
    "geburtsdatum", "geboren*", "geb", "geburtstag", "gebdat", "né", "née", "naissance", "nacid*", "nacimiento",
    "nació",
    "nato", "nata", "nascita", "nascid*", "nascimento", "nasceu", "geboortedatum", "geboren op", "urodz*", "född*",
    "出生", "出生日期", "生年月日", "生まれ", "تاريخ الميلاد", "مواليد", "ولد",
)  # fmt: skip
_MONTHS = (
    "jan", "january", "januar", "jänner", "janvier", "enero", "gennaio", "janeiro", "feb", "february", "februar",
    "février", "febrero", "febbraio", "fevereiro", "mar", "march", "märz", "mars", "marzo", "março", "apr", "april",
    "avril", "abril", "aprile", "may", "mai", "mayo", "maggio", "maio", "jun", "june", "juni", "juin", "junio",
    "giugno",
    "junho", "jul", "july", "juli", "juillet", "julio", "luglio", "julho", "aug", "august", "août", "agosto", "sep",
    "sept", "september", "septembre", "septiembre", "settembre", "setembro", "oct", "okt", "october", "oktober",
    "octobre", "octubre", "ottobre", "outubro", "nov", "november", "novembre", "noviembre", "novembro", "dec", "dez",
    "december", "dezember", "décembre", "diciembre", "dicembre", "dezembro",
)  # fmt: skip
_MONTH = "(?:" + "|".join(sorted(_MONTHS, key=len, reverse=True)) + r")\.?"
_DAY, _YEAR = r"(?:0?[1-9]|[12][0-9]|3[01])", r"(?:1[89][0-9]{2}|20[0-9]{2})"
_YEARS = re.compile(r"(?:19|20)[0-9]{2}[-/](?:19|20)?[0-9]{2}")
_EDGE_LEFT, _EDGE_RIGHT = r"(?<![0-9A-Za-z])(?<![0-9][-./])", r"(?![0-9A-Za-z]|[-./][0-9])"
DATES = (
    rf"{_EDGE_LEFT}{_YEAR}(?P<gap>[-./ ])(?:0?[1-9]|1[0-2])(?P=gap){_DAY}(?:{_EDGE_RIGHT}|(?=T[0-9]))",
    rf"{_EDGE_LEFT}[0-3]?[0-9](?P<gap>[-./]|\. |/ | )[0-3]?[0-9](?P=gap)(?:{_YEAR}|'?[0-9]{{2}}){_EDGE_RIGHT}",
    rf"{_EDGE_LEFT}{_DAY}(?:st|nd|rd|th|er|º|\.)?[-\s]{{0,2}}(?:(?:of|de|di)\s)?{_MONTH}[-\s,]{{0,3}}(?:(?:de|del)\s)?(?:{_YEAR}|'[0-9]{{2}}|(?<=-)[0-9]{{2}}){_EDGE_RIGHT}",
    rf"(?<![^\W_]){_MONTH}[-\s]{{0,2}}{_DAY}(?:st|nd|rd|th)?[-\s,]{{1,3}}(?:{_YEAR}|'[0-9]{{2}}){_EDGE_RIGHT}",
    rf"(?<![0-9]){_YEAR}\s?[年년]\s?(?:0?[1-9]|1[0-2])\s?[月월]\s?{_DAY}\s?[日일]",
    rf"{_EDGE_LEFT}(?:19|20)[0-9]{{2}}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01]){_EDGE_RIGHT}",
)
"""Full dates; a year alone, or month and year, is no date of birth here."""


def _is_record(value: str) -> bool:
    """Five digits or more, and no range of years."""
    return not _YEARS.fullmatch(value) and sum(sign.isdigit() for sign in value) >= 5


RULES = (
    *(
        rule("date_of_birth", rf"(?<=\(\*)\s?(?P<value>{pattern})", flags=re.IGNORECASE, score=0.85)
        for pattern in DATES
    ),
    *(
        rule("date_of_birth", pattern, flags=re.IGNORECASE, context=_BIRTH_WORDS, before=36, after=24, score=0.85)
        for pattern in DATES
    ),
    rule(
        "medical_record_number",
        LEFT + r"(?:[A-Za-z]{1,4}[-.]?)?[0-9][0-9A-Za-z]{0,3}(?:[-./]?[0-9]{1,8}){1,4}[A-Za-z]?" + RIGHT,
        context=_RECORD_WORDS,
        check=_is_record,
        before=40,
        after=16,
        score=0.75,
    ),
    rule(
        "health_plan_id",
        LEFT + r"(?:[A-Za-z]{1,5}-?)?[0-9][0-9A-Za-z]{0,3}(?:[- ]?[0-9A-Za-z]{1,9}){0,3}[0-9][A-Za-z]?" + RIGHT,
        context=_PLAN_WORDS,
        check=_is_record,
        before=44,
        after=16,
        score=0.74,
    ),
    rule(
        "dea_number",
        r"(?<![0-9A-Za-z])[ABCDEFGHJKLMPRSTUXabcdefghjklmprstux][A-Za-z9][-\s]?[0-9]{7}(?![0-9A-Za-z])",
        valid=us_dea,
        context=words("dea", "drug enforcement", "registration", "prescrib*", "controlled substance*", "narcotic*"),
        score=0.9,
    ),
    rule(
        "uk_nhs_number",
        LEFT + r"[0-9]{3}[- ]?[0-9]{3}[- ]?[0-9]{4}" + RIGHT,
        valid=uk_nhs,
        context=words("nhs*", "national health", "health service", "chi number", "chi", "health and care number"),
        score=0.95,
    ),
    rule(
        "de_health_insurance",
        r"(?<![0-9A-Za-z])[A-Z][ ]?[0-9]{3}[ ]?[0-9]{3}[ ]?[0-9]{3}(?![0-9A-Za-z])",
        valid=de_health_insurance,
        score=0.9,
    ),
    rule(
        "au_medicare",
        LEFT + r"[2-6][0-9]{3}[- ]?[0-9]{5}[- ]?[0-9](?:[-/ ]?[0-9])?" + RIGHT,
        valid=au_medicare,
        context=words("medicare*"),
        score=0.9,
    ),
)
