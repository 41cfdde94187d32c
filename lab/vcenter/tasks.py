"""Tasks: work that outlives the call, and the session, that started it."""

import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from lab.vcenter.faults import FaultName, FaultRequest
from lab.vcenter.soap import managed_method, method_info
from lab.vcenter.vmodl_values import complete
from lab.vcenter.vocabulary import vim, vmodl
from lab.vcenter.world import LabObject, World, data_object, now

_log = logging.getLogger(__name__)

Work = Callable[["Task"], Any]
"""What a task does: gets its task to report progress, returns the task's result, raises a vmodl fault to fail."""

_RECENT_TASKS = 200


class Task(LabObject):
    """One task, from queued to success or error."""

    def __init__(self, world: World, number: int, method: str, entity: LabObject, entity_name: str, user: str) -> None:
        super().__init__(vim.Task(f"task-{number}"))
        self._world = world
        self.method = method
        self.entity = entity
        self.entity_name = entity_name
        self._user = user
        self._number = number
        self.state = "queued"
        self._progress: int | None = None
        self._result: Any = None
        self._error: Any = None
        self._queued_at = now()
        self._started_at: datetime | None = None
        self._completed_at: datetime | None = None
        self.completed_monotonic: float | None = None
        self.readers["info"] = self.info

    @property
    def finished(self) -> bool:
        """True once the task succeeded or failed."""
        return self.state in ("success", "error")

    @property
    def error(self) -> Any:
        """The fault that the task failed with, or None."""
        return self._error

    def report(self, percent: int) -> None:
        """Set the progress that callers see."""
        with self._world.lock:
            self._progress = percent
            self._world.changed()

    def info(self) -> Any:
        """Return the task's TaskInfo."""
        declaration = method_info(self.method)
        kind = declaration.type.__name__.removeprefix("vim.")
        value = data_object(
            vim.TaskInfo,
            key=self.moref,
            task=self.reference,
            name=managed_method(self.method),
            descriptionId=f"{kind}.{declaration.name[0].lower()}{declaration.name[1:]}",
            entity=self.entity.reference,
            entityName=self.entity_name,
            state=self.state,
            cancelled=False,
            cancelable=False,
            error=self._error,
            progress=self._progress if self.state == "running" else None,
            reason=vim.TaskReasonUser(userName=self._user),
            queueTime=self._queued_at,
            startTime=self._started_at,
            completeTime=self._completed_at,
            eventChainId=self._number,
        )
        if self._result is not None:
            value.result = self._result
        return complete(value)

    def run(self, work: Work) -> None:
        """Do the work in this thread and record how it ended."""
        with self._world.lock:
            self.state = "running"
            self._started_at = now()
            self._progress = 0
            self._world.changed()
        try:
            result, error = work(self), None
        except vmodl.MethodFault as fault:
            result, error = None, fault
        except Exception:
            _log.exception("task %s (%s) broke", self.moref, self.method)
            result, error = None, vmodl.fault.SystemError(msg="A general system error occurred", reason="the lab broke")
        with self._world.lock:
            self._result, self._error = result, error
            self.state = "error" if error is not None else "success"
            self._completed_at = now()
            self.completed_monotonic = time.monotonic()
            self._world.changed()


class TaskManager(LabObject):
    """Starts tasks, keeps them readable for a while, and refuses a second exclusive one on the same entity."""

    def __init__(self, world: World) -> None:
        super().__init__(vim.TaskManager("TaskManager"))
        self._world = world
        self._tasks: list[Task] = []
        self.readers["recentTask"] = lambda: [task.reference for task in self.recent()]
        self.readers["maxCollector"] = lambda: 32

    def recent(self, entity: LabObject | None = None) -> list[Task]:
        """Return the tasks that are queued, running or finished not long ago, oldest first."""
        self._expire()
        tasks = [task for task in self._tasks if entity is None or task.entity is entity]
        return tasks[-_RECENT_TASKS:]

    def _expire(self) -> None:
        with self._world.lock:
            oldest = time.monotonic() - self._world.times.task_retention_s
            for task in [task for task in self._tasks if (task.completed_monotonic or time.monotonic()) < oldest]:
                self._tasks.remove(task)
                self._world.remove(task.moref)

    def running(self, entity: LabObject) -> Task | None:
        """Return the entity's task that is not finished, or None."""
        return next((task for task in self._tasks if task.entity is entity and not task.finished), None)

    def run(self, method: str, vm: LabObject, name: str, work: Work) -> Task:
        """Start a task and wait until it is finished. Raises vim.fault.TaskInProgress."""
        reference = self.start(method, vm, name, "lab", work)
        task = self._world.get(reference)
        assert isinstance(task, Task)
        with self._world.condition:
            self._world.condition.wait_for(lambda: task.finished)
        return task

    def start(self, method: str, entity: LabObject, entity_name: str, user: str, work: Work) -> Any:
        """Start a task on an entity and return its reference. Raises vim.fault.TaskInProgress."""
        with self._world.lock:
            self._expire()
            busy = self.running(entity)
            if busy is not None:
                raise vim.fault.TaskInProgress(task=busy.reference, msg="Another task is already in progress.")
            injected = self._world.faults.take(FaultName.METHOD, vm=entity.moref, method=method, as_task_error=True)
            task = Task(self._world, self._world.number(), method, entity, entity_name, user)
            self._tasks.append(task)
            self._world.add(task)

        def run() -> None:
            if injected is not None:
                task.run(_raiser(injected, work))
            else:
                task.run(work)

        threading.Thread(target=run, name=f"{task.moref} {method}", daemon=True).start()
        return task.reference


def _raiser(request: FaultRequest, work: Work) -> Work:
    def fail(task: Task) -> Any:
        if request.after_effect:
            work(task)
        raise request.make_fault()

    return fail
