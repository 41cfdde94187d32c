"""Sessions: log-in, cookies, expiry, and the objects that live and die with a session."""

import secrets
import time
import uuid
from typing import Any

from lab.vcenter.vmodl_values import complete
from lab.vcenter.vocabulary import vim
from lab.vcenter.world import LabObject, World, data_object, now

COOKIE_NAME = "vmware_soap_session"


class Session:
    """A logged-in user's session, with its views, collectors, filters and paging tokens."""

    def __init__(self, user: str, address: str, agent: str) -> None:
        self.key = str(uuid.uuid4())
        self.cookie = secrets.token_hex(20)
        self.user = user
        self.login_time = now()
        self.last_active_time = self.login_time
        self.last_active_monotonic = time.monotonic()
        self.calls = 0
        self.in_progress = 0
        self._address = address
        self._agent = agent
        self._objects: dict[str, LabObject] = {}

    def touch(self) -> None:
        """Note that the session was used."""
        self.last_active_time = now()
        self.last_active_monotonic = time.monotonic()
        self.calls += 1

    def add(self, item: LabObject) -> None:
        """Keep an object that only this session can use."""
        self._objects[item.moref] = item

    def remove(self, moref: str) -> None:
        """Forget an object of the session."""
        self._objects.pop(moref, None)

    def find(self, moref: str) -> LabObject | None:
        """Return an object of the session, or None."""
        return self._objects.get(moref)

    def objects(self) -> list[LabObject]:
        """Return all objects of the session."""
        return list(self._objects.values())

    def describe(self) -> Any:
        """Return the session as a UserSession."""
        return complete(
            data_object(
                vim.UserSession,
                key=self.key,
                userName=self.user,
                fullName=self.user,
                loginTime=self.login_time,
                lastActiveTime=self.last_active_time,
                locale="en",
                messageLocale="en",
                extensionSession=False,
                ipAddress=self._address,
                userAgent=self._agent,
                callCount=self.calls,
            )
        )


class SessionManager(LabObject):
    """Who is logged in."""

    def __init__(self, world: World, users: dict[str, str]) -> None:
        super().__init__(vim.SessionManager("SessionManager"))
        self._world = world
        self._users = dict(users)
        self._sessions: dict[str, Session] = {}
        self.readers["defaultLocale"] = lambda: "en"
        self.readers["sessionList"] = lambda: [session.describe() for session in self._sessions.values()]

    def check_password(self, user: str, password: str) -> bool:
        """Return whether a user has this password."""
        known = self._users.get(user)
        return known is not None and secrets.compare_digest(known.encode(), password.encode())

    def log_in(self, user: str, password: str, address: str, agent: str) -> Session:
        """Open a session. Raises vim.fault.InvalidLogin."""
        if not self.check_password(user, password):
            raise vim.fault.InvalidLogin(msg="Cannot complete login due to an incorrect user name or password.")
        session = Session(user, address, agent)
        own_view = LabObject(self.reference)
        own_view.readers.update(self.readers, currentSession=session.describe)
        session.add(own_view)
        with self._world.lock:
            self._sessions[session.cookie] = session
        return session

    def find(self, cookie: str | None) -> Session | None:
        """Return the live session of a cookie's value, or None; an idle one is ended here."""
        if cookie is None:
            return None
        with self._world.lock:
            session = self._sessions.get(cookie)
            if session is None:
                return None
            idle = time.monotonic() - session.last_active_monotonic
            if idle > self._world.times.session_idle_s and not session.in_progress:
                self.end(session)
                return None
            return session

    def end(self, session: Session) -> None:
        """End a session with everything that lives in it; whoever waits in it is woken."""
        with self._world.lock:
            self._sessions.pop(session.cookie, None)
            self._world.changed()

    def is_live(self, session: Session) -> bool:
        """Return whether a session has not ended."""
        return session.cookie in self._sessions

    def end_by_key(self, keys: list[str]) -> None:
        """End the sessions with these keys."""
        with self._world.lock:
            for session in [session for session in self._sessions.values() if session.key in keys]:
                self.end(session)

    def end_all(self) -> int:
        """End every session, as an idle time limit would; return how many there were."""
        with self._world.lock:
            sessions = list(self._sessions.values())
            for session in sessions:
                self.end(session)
            return len(sessions)

    def count(self) -> int:
        """Return how many sessions are open."""
        return len(self._sessions)
