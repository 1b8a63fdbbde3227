"""The open tabs of the demo, and what each of them holds."""

import threading

from apps.demo.demo_session import DemoOptions, DemoSession
from components.model import VideoLanguageModel


class DemoSessions:
    """The sessions of all open tabs.

    Args:
        model: The model.
        options: Limits and texts.
        most: Most tabs; where there are more, the one that was opened first is forgotten.
    """

    def __init__(self, model: VideoLanguageModel, options: DemoOptions, most: int = 20) -> None:
        self.model = model
        self.options = options
        self.most = most
        self._sessions: dict[str | None, DemoSession] = {}
        self._lock = threading.Lock()
        self._model_lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._sessions)

    def of(self, tab: str | None) -> DemoSession:
        """The session of a tab, by the name that Gradio gives the tab; a new one where it has none."""
        with self._lock:
            if tab not in self._sessions:
                while len(self._sessions) >= self.most:
                    self._forget(next(iter(self._sessions)))
                self._sessions[tab] = DemoSession(self.model, self.options, self._model_lock)
            return self._sessions[tab]

    def forget(self, tab: str | None) -> None:
        """Release what a closed tab held: memory, its video's file, and the work that runs for it."""
        with self._lock:
            self._forget(tab)

    def _forget(self, tab: str | None) -> None:
        session = self._sessions.pop(tab, None)
        if session is None:
            return
        path = session.path
        session.clear()
        if path is not None and path not in (each.path for each in self._sessions.values()):
            path.unlink(missing_ok=True)  # equal uploads of several tabs are one file
