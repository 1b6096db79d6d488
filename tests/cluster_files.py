"""``ray-config.yaml`` as somebody has filled it in who has the machines, the key, the wheel and the token that it names."""

from pathlib import Path
from typing import Literal

from raygen.cluster.wheel import build

SHIPPED = Path(__file__).parents[1] / "ray-config.yaml"
Block = Literal["local", "aws"]


def chosen(block: Block) -> str:
    """The shipped file with one of its blocks."""
    text = SHIPPED.read_text()
    assert text.count("\n<<: *local ") == 1
    return text.replace("\n<<: *local ", f"\n<<: *{block} ")


def filled(block: Block, head: str = "10.0.0.1", workers: str = "10.0.0.2, 10.0.0.3", user: str = "ray") -> str:
    """The same with values instead of its placeholders."""
    text = chosen(block).replace("head.example.internal ", f"{head} ")
    text = text.replace("worker-1.example.internal, worker-2.example.internal", workers)
    return text.replace("ssh_user: ray ", f"ssh_user: {user} ").replace("ami-00000000000000000", "ami-0123456789abcdef0")


def furnish(folder: Path, home: Path) -> None:
    """Make the files that it names, in the folder from which commands run and in a home."""
    wheel = build()
    (folder / "dist").mkdir()
    (folder / "dist" / wheel.name).write_bytes(wheel.data)
    for file, text in ((home / ".ray" / "auth_token", "0" * 32), (home / ".ssh" / "id_ed25519", "a key")):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        file.chmod(0o600)
