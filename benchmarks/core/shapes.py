"""What the benchmark's server answers, in the shape of each API that a client here speaks.

Each API has a task that is unfinished for some polls and then has one image. Shapes: Kling,
"Image expansion" (https://klingai.com/document-api/api/image/common/outpainting); OpenAI,
"Videos" (https://platform.openai.com/docs/api-reference/videos); Runway, "Tasks"
(https://docs.dev.runwayml.com/api/); fal, "Queue" (https://docs.fal.ai/model-endpoints/queue/);
Replicate, "Predictions" (https://replicate.com/docs/reference/http).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

import attrs

KLING = "/kling/v1/images/editing/expand"
NEVER = "never"
"""A task whose id starts with this stays unfinished, to measure polls alone."""

_MOMENT = 1_722_769_557_708
_ISO = "2024-08-04T11:05:57.708Z"


@attrs.define(eq=False)
class Tasks:
    """The tasks of the server: how often each was polled.

    Attributes:
        polls: Which poll is answered with "finished".
        root: Address of the server.
        finished: Whether any task has finished.
    """

    polls: int
    root: str
    finished: bool = attrs.field(default=False, init=False)
    _polled: dict[str, int] = attrs.field(factory=dict, init=False)
    _made: int = attrs.field(default=0, init=False)

    def new(self) -> str:
        """Return the id of a new task."""
        self._made += 1
        return f"{860_000_000_000 + self._made}"

    def poll(self, task_id: str) -> bool:
        """Count one poll; return whether the task has finished."""
        if task_id.startswith(NEVER):
            return False
        polled = self._polled[task_id] = self._polled.get(task_id, 0) + 1
        if polled >= self.polls:
            del self._polled[task_id]
            self.finished = True
        return polled >= self.polls

    @property
    def image(self) -> str:
        """Where the result is."""
        return f"{self.root}/files/result.png"


def _dumps(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def kling_task(task_id: str, status: str, image: str | None) -> dict[str, object]:
    """Return one task in Kling's form."""
    task: dict[str, object] = {
        "task_id": task_id,
        "task_status": status,
        "task_status_msg": "",
        "task_info": {},
        "created_at": _MOMENT,
        "updated_at": _MOMENT + 1,
    }
    if image is not None:
        task["task_result"] = {"images": [{"index": 0, "url": image}]}
        task["final_unit_deduction"] = "8"
    return task


def _kling_answer(data: object) -> bytes:
    # The id of CometAPI's answers has this length.
    request_id = "20260721074313512345678Ab12Cd34"
    return _dumps({"code": 0, "message": "SUCCEED", "request_id": request_id, "data": data})


def _kling(tasks: Tasks, method: str, path: str) -> bytes:
    if method == "POST":
        return _kling_answer(kling_task(tasks.new(), "submitted", None))
    rest = path.removeprefix(KLING)
    if rest.startswith("?"):
        return _kling_page(tasks, rest)
    task_id = rest[1:]
    if tasks.poll(task_id):
        return _kling_answer(kling_task(task_id, "succeed", tasks.image))
    return _kling_answer(kling_task(task_id, "processing", None))


def _kling_page(tasks: Tasks, query: str) -> bytes:
    size = int(query.partition("pageSize=")[2] or 30)
    done = [kling_task(f"{number:018d}", "succeed", tasks.image) for number in range(size)]
    return _kling_answer(done)


def _openai(tasks: Tasks, method: str, path: str) -> bytes:
    task_id = path.rpartition("/")[2]
    status = "queued"
    if method == "POST":
        task_id = tasks.new()
    elif tasks.poll(task_id):
        status = "completed"
    video = {"id": task_id, "object": "video", "created_at": _MOMENT // 1000, "model": "sora-2"}
    rest = {"progress": 0, "seconds": "4", "size": "720x1280", "status": status}
    return _dumps({**video, **rest})


def _runway(tasks: Tasks, method: str, path: str) -> bytes:
    task_id = path.rpartition("/")[2]
    if method == "POST":
        return _dumps({"id": tasks.new(), "estimatedCost": {"credits": 8}})
    task: dict[str, object] = {"id": task_id, "createdAt": _ISO}
    if tasks.poll(task_id):
        done = {"status": "SUCCEEDED", "cost": {"credits": 8}, "output": [tasks.image]}
        return _dumps({**task, **done})
    return _dumps({**task, "status": "RUNNING", "estimatedCost": {"credits": 8}, "progress": 0.5})


def _fal(tasks: Tasks, method: str, path: str) -> bytes:
    if method == "POST":
        task_id = tasks.new()
        url = f"{tasks.root}/fal/bench/expand/requests/{task_id}"
        urls = {"response_url": url, "status_url": f"{url}/status", "cancel_url": f"{url}/cancel"}
        return _dumps({"request_id": task_id, "status": "IN_QUEUE", "queue_position": 0, **urls})
    address = path.partition("?")[0]
    if not address.endswith("/status"):
        return _dumps({"images": [{"url": tasks.image, "content_type": "image/png"}]})
    if tasks.poll(address.split("/")[-2]):
        return _dumps({"status": "COMPLETED", "logs": None, "metrics": {"inference_time": 1.0}})
    return _dumps({"status": "IN_PROGRESS", "logs": None})


def _replicate(tasks: Tasks, method: str, path: str) -> bytes:
    task_id = path.rpartition("/")[2]
    status, output = "processing", None
    if method == "POST":
        task_id, status = tasks.new(), "starting"
    elif tasks.poll(task_id):
        status, output = "succeeded", tasks.image
    url = f"{tasks.root}/replicate/v1/predictions/{task_id}"
    facts = {"id": task_id, "model": "bench/expand", "version": "1", "created_at": _ISO}
    rest = {"status": status, "output": output, "input": {}, "logs": "", "error": None}
    return _dumps({**facts, **rest, "urls": {"get": url, "cancel": f"{url}/cancel"}})


Shape = Callable[[str, str], bytes]


def shapes(tasks: Tasks) -> dict[str, Shape]:
    """Return what answers, by the first word of the path: (method, path) -> JSON."""
    return {
        "kling": partial(_kling, tasks),
        "openai": partial(_openai, tasks),
        "runway": partial(_runway, tasks),
        "fal": partial(_fal, tasks),
        "replicate": partial(_replicate, tasks),
    }
