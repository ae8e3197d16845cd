"""Personal data in training rows: found by patterns and checksums, then counted, replaced or refused (`data.pii`)."""

from finetune.data.privacy.measured import measured_recall
from finetune.data.privacy.personal_data import NOT_FOUND, PersonalData

__all__ = ["NOT_FOUND", "PersonalData", "measured_recall"]
