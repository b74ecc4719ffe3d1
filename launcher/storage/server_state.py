"""What the local store keeps over restarts: its keys, its ports, which process it is.

Knows the format of server.json; neither starts nor ends anything.
"""

import json
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path

from launcher.errors import StorageError
from launcher.machine.files import write_atomically
from launcher.machine.processes import ProcessIdentity
from launcher.storage.local_ports import Ports

NAME = "server.json"
LOCK = "server.lock"
"""Beside it, had by the server itself as long as it lives. Unlike a process number, a lock is seen from other
containers and pid namespaces, too."""


@dataclass(frozen=True)
class ServerState:
    """server.json: all that has to outlive the launcher."""

    access_key: str
    secret_key: str = field(repr=False)
    ports: Ports
    process: ProcessIdentity | None = None
    ready: bool = False
    """Whether this process has answered a signed request and has its bucket."""
    folder: str = ""
    """Whose it is: a copy of the file in another folder is not."""

    @classmethod
    def fresh(cls, folder: Path) -> "ServerState":
        """Make keys and choose ports for the store of a folder. Raises UsageError when no ports are free."""
        return cls(
            access_key=secrets.token_hex(10),
            secret_key=secrets.token_urlsafe(30),
            ports=Ports.choose(),
            folder=str(folder),
        )

    def is_copied_to(self, folder: Path) -> bool:
        """Tell whether this was copied to `folder` from another that is still there, not moved with it."""
        origin = Path(self.folder or folder)
        return origin != folder and (origin / NAME).exists()

    @classmethod
    def read(cls, path: Path) -> "ServerState | None":
        """Return what was written, None where there is nothing yet. Raises StorageError."""
        try:
            fields = json.loads(path.read_bytes())
            return cls(
                access_key=str(fields["access_key"]),
                secret_key=str(fields["secret_key"]),
                ports=Ports.from_json(fields["ports"]),
                process=_identity(fields["process"]),
                ready=bool(fields["ready"]),
                folder=str(fields.get("folder", "")),
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as exc:
            # New keys would cut off pods that hold links signed with the old ones: a person decides.
            raise StorageError(
                f"{path} cannot be read.",
                next_step=f"With no run open, delete {path}; the data beside it stays.",
            ) from exc

    def write(self, path: Path) -> None:
        """Replace server.json, readable by its owner alone. Raises OSError."""
        write_atomically(path, json.dumps(asdict(self), indent=1).encode(), private=True)


def _identity(fields: object) -> ProcessIdentity | None:
    """Read which process it was; None, too, for what another version wrote: the server is found without."""
    try:
        return ProcessIdentity.from_json(fields) if isinstance(fields, dict) else None
    except (KeyError, TypeError, ValueError):
        return None
