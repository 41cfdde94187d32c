"""VMware's change ids: `<tracking uuid>/<epoch>` (facts F1)."""


def tracking_uuid(change_id: str) -> str:
    """Return the tracking UUID half: when it differs, change tracking was reset and the old id is void."""
    return change_id.rpartition("/")[0]
