"""What `/ping` answers, and the background tasks that make it say HealthyBusy (contract §1.2, §1.4)."""

from __future__ import annotations

import time
from _thread import allocate_lock  # `threading` comes with the server, after the port listens

from bedrock_agentcore.runtime.context import new_uuid
from bedrock_agentcore.runtime.models import PingStatus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Health:
    """Forced status > custom status > HealthyBusy while at least one task is open."""

    def __init__(self) -> None:
        self.forced: PingStatus | None = None
        self.custom: Callable[[], object] | None = None
        self._tasks: dict[int, dict[str, Any]] = {}
        self._lock = allocate_lock()
        self._last: PingStatus | None = None
        self._since = time.time()

    def status(self, warn: Callable[[str], None]) -> PingStatus:
        """The status now; notices transitions, lazily as the AWS SDK does."""
        status = self.forced
        if status is None and self.custom is not None:
            try:
                said = self.custom()
                # An answer that is neither is passed on; `/ping` then falls back to Healthy.
                status = PingStatus(said) if isinstance(said, str) else said  # type: ignore[assignment]
            except Exception as error:
                warn(f"Custom ping handler failed, falling back to automatic: {type(error).__name__}: {error}")
        with self._lock:
            if status is None:
                status = PingStatus.HEALTHY_BUSY if self._tasks else PingStatus.HEALTHY
            if status != self._last:
                self._last = status
                self._since = time.time()
        return status

    @property
    def since(self) -> int:
        """Unix seconds of the last transition."""
        return int(self._since)

    def add_task(self, name: str, metadata: dict[str, Any] | None) -> int:
        """Open a task."""
        task: dict[str, Any] = {"name": name, "start_time": time.time()}
        if metadata:
            task["metadata"] = metadata
        task_id = hash(new_uuid())
        with self._lock:
            self._tasks[task_id] = task
        return task_id

    def complete_task(self, task_id: int) -> tuple[str, float] | None:
        """Close a task: its name and how long it took; None if it is unknown."""
        with self._lock:
            task = self._tasks.pop(task_id, None)
        return None if task is None else (task["name"], time.time() - task["start_time"])

    def task_info(self) -> dict[str, Any]:
        """The open tasks, as the debug action `job_status` shows them."""
        now = time.time()
        with self._lock:
            jobs = [{"name": t["name"], "duration": now - t["start_time"]} for t in self._tasks.values()]
        return {"active_count": len(jobs), "running_jobs": jobs}
