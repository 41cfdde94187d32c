"""What Compute checks of a disk before it accepts it: pure functions over documents.

Sources: azure-mgmt-compute 39 docstrings; learn.microsoft.com, "Upload a VHD to Azure" (sizes).
"""

from collections.abc import Mapping

from lab.arm.errors import ArmError, Json, bad_parameter, change_not_allowed, required
from lab.arm.resource_ids import same
from lab.arm.vhd import FOOTER_BYTES, MIB

GIB = 1 << 30
SKUS = {
    "Standard_LRS": "Standard",
    "StandardSSD_LRS": "Standard",
    "StandardSSD_ZRS": "Standard",
    "Premium_LRS": "Premium",
    "Premium_ZRS": "Premium",
    "PremiumV2_LRS": "Premium",
    "UltraSSD_LRS": "Ultra",
}
CREATE_OPTIONS = {"empty": "Empty", "import": "Import", "upload": "Upload", "copy": "Copy"}
MAX_DATA_DISK_GIB = 32_767
MAX_OS_DISK_GIB = 4_095
MIN_UPLOAD_BYTES, MAX_UPLOAD_BYTES = 20_972_032, 35_183_298_347_520
_FIXED_FIELDS = ("sourceUri", "storageAccountId", "sourceResourceId", "uploadSizeBytes")


def create_option(body: Json) -> str:
    """Return the createOption in its canonical spelling."""
    creation = body.get("properties", {}).get("creationData")
    if not isinstance(creation, dict):
        raise required("disk.creationData")
    option = creation.get("createOption")
    if not option:
        raise required("disk.creationData.createOption")
    if str(option).lower() not in CREATE_OPTIONS:
        raise bad_parameter(f"The value '{option}' of parameter 'createOption' is invalid or not known here.", "createOption")
    return CREATE_OPTIONS[str(option).lower()]


def check_shape(body: Json) -> None:
    """Check SKU, zones, tags, osType, hyperVGeneration and diskSizeGB."""
    properties = body.get("properties", {})
    sku = (body.get("sku") or {}).get("name", "Standard_LRS")
    if sku not in SKUS:
        raise bad_parameter(f"Value '{sku}' of parameter 'sku.name' is invalid. Allowed values: {', '.join(SKUS)}.", "sku.name")
    zones = body.get("zones") or []
    if len(zones) > 1 or any(zone not in {"1", "2", "3"} for zone in zones):
        raise ArmError(400, "InvalidAvailabilityZone", f"The zone(s) '{', '.join(map(str, zones))}' are not available here.")
    if zones and str(sku).endswith("_ZRS"):
        raise bad_parameter("A zone-redundant disk cannot be placed in a zone.", "zones")
    check_tags(body.get("tags"))
    if properties.get("osType") not in {None, "Linux", "Windows"}:
        raise bad_parameter(f"The value '{properties['osType']}' of parameter 'osType' is invalid.", "osType")
    if properties.get("hyperVGeneration") not in {None, "V1", "V2"}:
        raise bad_parameter(
            f"The value '{properties['hyperVGeneration']}' of parameter 'hyperVGeneration' is invalid.", "hyperVGeneration"
        )
    if properties.get("diskSizeGB") is not None:
        check_size_gib(properties["diskSizeGB"], properties.get("osType"))


def check_tags(tags: object) -> None:
    """Check number and lengths of tags: 50, names of 512 characters, values of 256."""
    if tags is None:
        return
    if not isinstance(tags, Mapping) or len(tags) > 50:
        raise ArmError(400, "InvalidTags", "The number of tags exceeds the maximum number of 50.")
    for name, value in tags.items():
        if len(name) > 512 or any(character in "<>%&\\?/" for character in name):
            raise ArmError(400, "InvalidTagNameCharacters", f"The tag name '{name}' is not valid.")
        if not isinstance(value, str) or len(value) > 256:
            raise ArmError(400, "InvalidTagValueLength", f"The value of tag '{name}' is not a string of at most 256 characters.")


def check_size_gib(size: object, os_type: str | None) -> int:
    """Return diskSizeGB if it is within the caps."""
    most = MAX_OS_DISK_GIB if os_type else MAX_DATA_DISK_GIB
    if not isinstance(size, int) or not 1 <= size <= most:
        raise bad_parameter(
            f"The value {size} of parameter 'diskSizeGb' is out of range. Value must be between 1 and {most} inclusive.",
            "diskSizeGb",
        )
    return size


def check_upload_size(creation: Json) -> int:
    """Return the virtual size that an upload of `uploadSizeBytes` makes."""
    upload = creation.get("uploadSizeBytes")
    if not isinstance(upload, int):
        raise required("disk.creationData.uploadSizeBytes")
    if not MIN_UPLOAD_BYTES <= upload <= MAX_UPLOAD_BYTES:
        raise bad_parameter(
            f"The value {upload} of parameter 'uploadSizeBytes' is out of range. "
            f"Value must be between {MIN_UPLOAD_BYTES} and {MAX_UPLOAD_BYTES} inclusive.",
            "uploadSizeBytes",
        )
    size = upload - FOOTER_BYTES
    if size % MIB:
        raise ArmError(
            400,
            "BadRequest",
            f"The upload size in bytes {upload} - 512 bytes for the VHD footer ({size} in this case) must be a multiple of MiB.",
        )
    return size


def check_update(existing: Json, wanted: Json) -> None:
    """Refuse a PUT on an existing disk or snapshot that changes how it was created, its place, or makes it smaller."""
    was, now = existing["properties"]["creationData"], wanted["properties"]["creationData"]
    if was["createOption"].lower() != str(now["createOption"]).lower():
        raise change_not_allowed("creationData.createOption")
    for field in _FIXED_FIELDS:
        left, right = was.get(field), now.get(field)
        if left != right and not (field.endswith("Id") and same(left, right)):
            raise change_not_allowed(f"creationData.{field}")
    for field in ("osType", "hyperVGeneration"):
        left, right = existing["properties"].get(field), wanted["properties"].get(field)
        if right is not None and left is not None and left != right:
            raise change_not_allowed(field)
    if wanted.get("zones") is not None and (existing.get("zones") or []) != wanted["zones"]:
        raise change_not_allowed("zones")
    size = wanted["properties"].get("diskSizeGB")
    if size is not None and size < existing["properties"].get("diskSizeGB", 0):
        raise ArmError(409, "OperationNotAllowed", "Disk size reduction is not supported.")
