"""Hooks are attached when what they name is imported, and each says whether it took.

`arm` registers functions for module names. When such a module has been executed (or is there already)
its function wraps what it needs and returns the names of the wrapped functions, which become a
``hook.attached`` event; an exception becomes ``hook.failed``, naming the point, and the module's import
goes on as if nothing had been. One hook's failure leaves the others alone.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Sequence

from . import recorder
from .events import HookAttached, HookFailed

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec


class Attached(NamedTuple):
    """What a hook's function reports."""

    points: list[str]
    failed: list[tuple[str, BaseException]]


class Hook(NamedTuple):
    """One thing to hook: `attach` is called with the module once it is imported."""

    target: str
    module: str
    attach: Callable[[ModuleType], Attached]
    detach: Callable[[], None]


class _Finder:
    """Finds a hooked module as the other finders would, and calls its hooks after it was executed."""

    def __init__(self, hooks: Sequence[Hook]) -> None:
        self.hooks: dict[str, list[Hook]] = {}
        for hook in hooks:
            self.hooks.setdefault(hook.module, []).append(hook)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        hooks = self.hooks.get(fullname)
        if not hooks:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                try:
                    _call_after_exec(spec.loader, hooks)
                except Exception as error:  # a loader that cannot be extended
                    for hook in hooks:
                        _report_failure(hook, hook.module, error)
                return spec
        return None


def _call_after_exec(loader: Any, hooks: list[Hook]) -> None:
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        loader.exec_module = execute
        execute(module)
        for hook in hooks:
            _attach(hook, module)

    loader.exec_module = exec_module


_finder: _Finder | None = None


def arm(hooks: Sequence[Hook]) -> None:
    """Attach each hook to its module, now where that is imported already, else when it is."""
    global _finder
    if _finder is not None:
        return
    _finder = _Finder(hooks)
    for hook in hooks:
        module = sys.modules.get(hook.module)
        if module is not None:
            _attach(hook, module)
    sys.meta_path.insert(0, _finder)


def disarm() -> None:
    """Take every hook off again; what was wrapped is as it was."""
    global _finder
    if _finder is None:
        return
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)
    for hooks in _finder.hooks.values():
        for hook in hooks:
            hook.detach()
    _finder = None
    _reports.clear()


_reports: list[Any] = []


def report(to: recorder.Recorder) -> None:
    """Tell a recorder that began later which hooks took and which did not."""
    for event in _reports:
        to.record(event)


def _attach(hook: Hook, module: ModuleType) -> None:
    version = _version(hook)
    try:
        attached = hook.attach(module)
    except Exception as error:
        attached = Attached([], [(hook.module, error)])
    if attached.points:
        _report(HookAttached(target=hook.target, version=version, points=attached.points))
    for point, failure in attached.failed:
        _report_failure(hook, point, failure)


def _report_failure(hook: Hook, point: str, failure: BaseException) -> None:
    _report(
        HookFailed(
            target=hook.target,
            version=_version(hook),
            point=point,
            error_type=recorder.error_type(failure),
            error_message=recorder.message_of(failure),
        )
    )


def _report(event: Any) -> None:
    _reports.append(event)
    for active in recorder.active():
        active.record(event)


def _version(hook: Hook) -> str | None:
    package = sys.modules.get(hook.module.partition(".")[0])
    version = getattr(package, "__version__", None)
    if isinstance(version, str):
        return version
    # a package that is being imported has its version in a module of its own
    own = sys.modules.get(f"{hook.module.partition('.')[0]}._version")
    version = getattr(own, "__version__", None)
    return version if isinstance(version, str) else None


def wrap(owner: Any, name: str, make: Callable[[Any], Any], undo: list[tuple[Any, str, Any, bool]]) -> str:
    """Replace attribute `name` of `owner` by ``make(original)``; returns the name of the point.

    What is needed to put it back is added to `undo`. Raises AttributeError where there is no such
    attribute. A point that is wrapped already is left alone.
    """
    original = getattr(owner, name)
    point = f"{owner.__name__}.{name}"
    if getattr(original, "__agent_telemetry__", False):
        return point
    wrapper = make(original)
    wrapper.__agent_telemetry__ = True
    undo.append((owner, name, original, name in vars(owner)))
    setattr(owner, name, wrapper)
    return point


def unwrap(undo: list[tuple[Any, str, Any, bool]]) -> None:
    """Put back what `wrap` replaced."""
    while undo:
        owner, name, original, was_own = undo.pop()
        if was_own:
            setattr(owner, name, original)
        else:
            delattr(owner, name)
