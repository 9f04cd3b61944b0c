"""How is nginx set up as a plain reverse proxy? One process, keep-alive upstream, no buffering, no logs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

BINARIES = ("nginx", "/usr/sbin/nginx")


def binary(folder: Path | None = None) -> str | None:
    """The nginx unpacked in that folder, else the installed one, if there is one."""
    unpacked = [] if folder is None else [str(folder / "usr" / "sbin" / "nginx")]
    return next((found for name in (*unpacked, *BINARIES) if (found := shutil.which(name))), None)


def version(program: str) -> str:
    """As it says itself, "1.22.1"."""
    said = subprocess.run([program, "-v"], capture_output=True, text=True, check=False).stderr
    return said.partition("nginx/")[2].split()[0] if "nginx/" in said else ""


def config_text(directory: Path, port: int, upstream: str) -> str:
    """Everything that nginx writes lies in ``directory``."""
    temporary = "\n".join(
        f"    {kind}_temp_path {directory}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 8192; }}
http {{
    access_log off;
{temporary}
    upstream answerer {{ server {urlsplit(upstream).netloc}; keepalive 256; }}
    server {{
        listen 127.0.0.1:{port};
        keepalive_requests 1000000;
        client_max_body_size 32m;
        location / {{
            proxy_pass http://answerer;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
"""


def command(program: str, directory: Path, port: int, upstream: str) -> list[str]:
    """Write the configuration; the words that start it."""
    config = directory / "nginx.conf"
    config.write_text(config_text(directory, port, upstream))
    return [program, "-p", str(directory), "-c", str(config), "-e", "stderr"]
