"""Callers over HTTP come in by the door of gRPC: identities, rights, late answers to wrong tokens, rates, audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ckptd.access.callers import Caller, UnauthenticatedError
from ckptd.access.roles import Right
from ckptd.access.visits import Visit, Visitor
from ckptd.engine.journal import Actor
from ckptd.errors import NotPermittedError
from ckptd.service import refusal_log
from ckptd.service.door import Door
from ckptd.service.page_logins import PageLogins
from ckptd.service.recorder import Recorder
from ckptd.service.refusal_log import host_of
from ckptd.service.requirements import Requirement
from ckptd.wire.channels import TOKEN_KEY


class Visitors:
    """See the module, and `Porter`. Belongs to the event loop of the server."""

    def __init__(self, door: Door, recorder: Recorder, logins: PageLogins) -> None:
        """Let in what `door` knows, or has logged in before; `recorder` is told of refusals."""
        self._door, self._recorder, self._logins = door, recorder, logins

    async def admit(self, visit: Visit) -> Visitor:
        """See `Porter`."""
        context: Any = _Context(visit)
        actor = Actor("", host_of(visit.peer))
        try:
            caller = self._logged_in(visit) or await self._door.caller(context)
            actor = Actor(str(caller), host_of(visit.peer))
            self._door.gate.check(caller, Requirement(visit.right, None))
        except NotPermittedError as error:
            self._recorder.refused(visit.peer, visit.page, actor, "", str(error))
            told = {"method": visit.page, "peer": visit.peer, "identity": actor.identity}
            refusal_log.log.refused(visit.peer, f"{visit.page} from {visit.peer}: {error}", told)
            raise
        self._door.check_rate(caller, visit.peer)
        policy = self._door.gate.access.policy
        everything = Right.METRICS if visit.right is Right.METRICS else Right.ADMIN
        return Visitor(caller, policy.allowed(caller, visit.right), policy.allows_everywhere(caller, everything))

    def redeem(self, code: str) -> str | None:
        """Return the cookie for the code of a link; None if that is not good any more."""
        return self._logins.redeem(code)

    def _logged_in(self, visit: Visit) -> Caller | None:
        """Return the caller of a cookie. What is shown besides it counts for more, and a bad one for nothing."""
        if visit.cookie is None or visit.authorization is not None:
            return None
        try:
            return self._logins.caller_of(visit.cookie)
        except UnauthenticatedError:
            return None


class _Context:
    """A request in the form in which `Door` knows calls: as far as it uses gRPC's context."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit

    def peer(self) -> str:
        return self._visit.peer

    def invocation_metadata(self) -> Sequence[tuple[str, str]]:
        shown = self._visit.authorization
        return () if shown is None else ((TOKEN_KEY, shown),)

    def auth_context(self) -> Mapping[str, Sequence[str]]:
        if not self._visit.is_encrypted:
            return {}
        return {
            "transport_security_type": ("ssl",),
            "x509_common_name": self._visit.common_names,
            "x509_subject_alternative_name": self._visit.alternative_names,
        }
