"""Light activities of the control worker: what the configuration says of a site."""

from collections.abc import Mapping

from temporalio import activity

from activities.failures import translated
from deltaferry.model.errors import DeltaferryError, ErrorKind
from workflows.messages.site import SiteInput, SiteProfile


class SiteActivities:
    """Knows the sites of this installation."""

    def __init__(self, profiles: Mapping[str, SiteProfile]) -> None:
        self._profiles = profiles

    @activity.defn
    @translated
    def describe_site(self, request: SiteInput) -> SiteProfile:
        """Return a site's profile. Raises BAD_INPUT with the names of the known sites."""
        profile = self._profiles.get(request.site)
        if profile is None:
            known = ", ".join(sorted(self._profiles)) or "none"
            raise DeltaferryError(
                ErrorKind.BAD_INPUT,
                f"There is no site {request.site!r} in this installation's configuration. Known sites: {known}.",
            )
        return profile
