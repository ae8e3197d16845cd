"""Check digits against numbers that their issuers publish as examples, and against other people's arithmetic."""

from collections.abc import Callable
from random import Random

import pytest
from pii_synthetic import values

from finetune.data.privacy import checksums

PUBLISHED = (
    (checksums.payment_card, "4111111111111111"),
    (checksums.payment_card, "5555555555554444"),
    (checksums.payment_card, "378282246310005"),
    (checksums.payment_card, "6011111111111117"),
    (checksums.payment_card, "2223003122003222"),
    (checksums.uk_nhs, "9434765919"),
    (checksums.uk_nhs, "4010232137"),
    (checksums.us_npi, "1234567893"),
    (checksums.us_dea, "AP5836727"),
    (checksums.us_dea, "BB1388568"),
    (checksums.de_tax_id, "86095742719"),
    (checksums.de_tax_id, "47036892816"),
    (checksums.de_tax_id, "65929970489"),
    (checksums.de_social_insurance, "15070649C103"),
    (checksums.de_health_insurance, "A123456780"),
    (checksums.travel_document, "L01X00T471"),
    (checksums.travel_document, "T220001293"),
    (checksums.machine_readable_passport, "L898902C36UTO7408122F1204159ZE184226B<<<<<10"),
    (checksums.es_nif, "12345678Z"),
    (checksums.es_nif, "X1234567L"),
    (checksums.it_fiscal_code, "RSSMRA85T10A562S"),
    (checksums.it_fiscal_code, "MRTMTT91D08F205J"),
    (checksums.fr_nir, "255081416802538"),
    (checksums.in_aadhaar, "234123412346"),
    (checksums.verhoeff, "2363"),
    (checksums.au_tax_file_number, "123456782"),
    (checksums.au_medicare, "2123456701"),
    (checksums.ca_sin, "193456787"),
    (checksums.nl_bsn, "111222333"),
    (checksums.pl_pesel, "44051401359"),
    (checksums.br_cpf, "52998224725"),
)
MADE = (
    (checksums.payment_card, values.credit_card),
    (checksums.uk_nhs, values.uk_nhs_number),
    (checksums.us_npi, values.npi),
    (checksums.us_dea, values.dea_number),
    (checksums.de_tax_id, values.de_tax_id),
    (checksums.de_social_insurance, values.de_social_insurance),
    (checksums.de_health_insurance, values.de_health_insurance),
    (checksums.es_nif, values.es_nif),
    (checksums.it_fiscal_code, values.it_fiscal_code),
    (checksums.fr_nir, values.fr_nir),
    (checksums.in_aadhaar, values.in_aadhaar),
    (checksums.au_tax_file_number, values.au_tfn),
    (checksums.au_medicare, values.au_medicare),
    (checksums.ca_sin, values.ca_sin),
    (checksums.nl_bsn, values.nl_bsn),
    (checksums.pl_pesel, values.pl_pesel),
    (checksums.br_cpf, values.br_cpf),
)


@pytest.mark.parametrize(("valid", "number"), PUBLISHED)
def test_published_numbers_are_valid_and_any_wrong_check_digit_is_not(
    valid: Callable[[str], bool], number: str
) -> None:
    assert valid(number)
    place = 8 if valid is checksums.au_medicare else len(number) - 1
    if number[place].isdigit() and valid is not checksums.machine_readable_passport:
        others = [number[:place] + digit + number[place + 1 :] for digit in "0123456789" if digit != number[place]]
        assert not any(map(valid, others))


@pytest.mark.parametrize(("valid", "make"), MADE, ids=lambda one: one.__name__)
def test_numbers_completed_by_independent_arithmetic_are_valid(
    valid: Callable[[str], bool], make: Callable[[Random], str]
) -> None:
    random = Random(7)
    assert all(valid(checksums.compact(make(random))) for _ in range(200))


@pytest.mark.parametrize("valid", sorted({valid for valid, _ in MADE}, key=lambda one: one.__name__))
def test_other_lengths_and_alphabets_are_not_valid(valid: Callable[[str], bool]) -> None:
    assert not any(valid(text) for text in ("12", "ABC", "1" * 40, "١٢٣٤٥٦٧٨٩٠١", "12345678901234567890A"))


def test_a_luhn_check_alone_makes_no_card() -> None:
    assert not checksums.payment_card("0000000000000000")
    assert checksums.luhn("1234567812345670")
    assert not checksums.payment_card("1234567812345670")
