"""What people see of a replication's recovery points, tests and failover."""

from collections.abc import Iterator
from datetime import datetime

from deltaferry.planning.phrases import count_text, duration_text, size_text
from workflows.messages.dr_state import FailoverState, TestRun
from workflows.messages.views import FailoverView, StatusView, TestView


def view_of_test(test: TestRun) -> TestView:
    """Return a test as it is shown."""
    return TestView(
        number=test.number,
        state=test.state.value,
        network=test.options.network,
        vm_id=test.vm_id,
        point_taken_at=test.point.taken_at if test.point is not None else None,
        requested_at=test.requested_at,
        ready_at=test.ready_at,
        provisioned_bytes=sum(disk.capacity_bytes for disk in test.point.disks) if test.point is not None else 0,
        error=test.error,
    )


def view_of_failover(failover: FailoverState | None) -> FailoverView | None:
    """Return a failover as it is shown."""
    if failover is None:
        return None
    reverse = failover.reverse
    return FailoverView(
        planned=failover.planned,
        requested_at=failover.requested_at,
        point_key=failover.point.cycle_key if failover.point is not None else "",
        point_taken_at=failover.point.taken_at if failover.point is not None else None,
        vm_id=failover.vm_id,
        running_at=failover.running_at,
        committed_at=failover.committed_at,
        phases=failover.phases,
        information=(
            *failover.information,
            *(reverse.made.information if reverse is not None and reverse.made is not None else ()),
            *(reverse.information if reverse is not None else ()),
        ),
        home_as_of=reverse.base.taken_at if reverse is not None and reverse.base is not None else None,
        home_phases=reverse.phases if reverse is not None else (),
        home_sent_bytes=reverse.last.bytes_sent if reverse is not None and reverse.last is not None else 0,
        home_vm=reverse.made.name if reverse is not None and reverse.made is not None else "",
        home_vm_uuid=reverse.made.instance_uuid if reverse is not None and reverse.made is not None else "",
    )


def recovery_facts(view: StatusView) -> Iterator[tuple[str, str]]:
    """Yield what there is to say of policy, points, tests and failover: a name, and a sentence."""
    if view.policy is not None:
        policy = view.policy
        every = policy.app_consistent_every
        quiesced = f", app-consistent every {duration_text(every)}" if every is not None else ""
        yield (
            "Policy",
            f"{policy.name}: points kept for {duration_text(policy.retention)}, RPO {duration_text(policy.rpo_threshold)}{quiesced}",
        )
    if view.points is not None:
        points = view.points
        oldest = f", the oldest of {_time(points.oldest_at)}" if points.oldest_at is not None else ""
        last = points.latest_app_consistent
        which = f" (the latest of {_time(last.taken_at)})" if last is not None else ""
        yield "Recovery points", f"{count_text(points.total, 'point')}, {points.app_consistent} app-consistent{which}{oldest}"
        if points.newest and points.newest[0].note:
            yield "Latest point", f"{points.newest[0].kind.value}: {points.newest[0].note}"
    if view.group:
        yield "Replication group", f"{view.group}, whose page has the shared points"
    if view.tested_at is not None:
        yield "Last test", _time(view.tested_at)
    for test in view.tests:
        yield f"Test {test.number}", _test_sentence(test)
    if view.failover is not None:
        yield "Failover", _failover_sentence(view.failover)


def _test_sentence(test: TestView) -> str:
    point = f" from the point of {_time(test.point_taken_at)}" if test.point_taken_at is not None else ""
    said = f"{test.state}, in {test.network}{point}"
    if test.error is not None:
        return f"{said}: {test.error.message} {test.error.remedy} Send clean_up when you have looked at it."
    if test.vm_id is not None:
        costs = f"its VM and {size_text(test.provisioned_bytes)} of disks cost money"
        return f"{said}; {test.vm_id} runs since {_time(test.ready_at)}, and {costs} until you send clean_up."
    return said


def _failover_sentence(failover: FailoverView) -> str:
    kind = "planned" if failover.planned else "unplanned"
    if failover.vm_id is None:
        return f"{kind}, asked for at {_time(failover.requested_at)}"
    point = f"from the point of {_time(failover.point_taken_at)}"
    ended = f"committed at {_time(failover.committed_at)}" if failover.committed_at is not None else "not committed"
    vm = f" of {failover.home_vm} ({failover.home_vm_uuid}), which was made for it," if failover.home_vm else ""
    home = f"; the disks at the site{vm} are as of {_time(failover.home_as_of)}" if failover.home_as_of is not None else ""
    return f"{kind}, {point}; {failover.vm_id} runs since {_time(failover.running_at)}; {ended}{home}"


def _time(at: datetime | None) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S UTC") if at is not None else "unknown"
