"""The field's words as frozen dataclasses and enums; no behaviour beyond what their meaning needs."""
