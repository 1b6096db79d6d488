"""Run every ```bash and ```python block of a Markdown file, in order, in one shell that stops at the first failure."""

import re
import subprocess
import sys
from pathlib import Path

FENCE = re.compile(r"^```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def script(markdown: str) -> str:
    """One bash script of all blocks; each is shown before it runs."""
    lines = ["set -euo pipefail"]
    for number, (language, block) in enumerate(FENCE.findall(markdown), 1):
        lines.append(f"cat <<'SHOWN'\n--- block {number}\n{block}SHOWN")
        lines.append(block if language == "bash" else f"python - <<'PYTHON'\n{block}PYTHON\n")
    return "\n".join(lines)


if __name__ == "__main__":
    text = Path(sys.argv[1]).read_text(encoding="utf-8")
    blocks = len(FENCE.findall(text))
    if not blocks:
        sys.exit(f"{sys.argv[1]} has no commands to run")
    subprocess.run(["bash", "-c", script(text)], check=True)
    print(f"{blocks} blocks of {sys.argv[1]} ran")
