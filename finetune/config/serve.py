"""Settings of the served check: which engine, how long it may take, how much is replayed."""

from dataclasses import dataclass, field

OPERATIONAL = {"identity": False}
"""As in schema.py: changes nothing in what a run makes."""


@dataclass
class ServeConfig:
    url: str | None = None
    """URL=: the serving team's own endpoint, such as https://host:8000. None: a server of our own, on loopback."""
    key_from_env: str = field(default="SERVE_API_KEY", metadata=OPERATIONAL)
    """Name of the environment variable that holds the endpoint's key; never the key. Not set: none is sent."""
    model: str | None = None
    """The model's name at the endpoint. None: the only one that it lists."""
    environment: str = field(default=".venv-serve", metadata=OPERATIONAL)
    """The virtual environment with vLLM, from the repository's root; `make setup-serve` makes it."""
    arguments: list[str] = field(default_factory=list)
    """More arguments of vLLM's server, such as [--max-model-len=4096]."""
    kv_cache_gib: float | None = None
    """Memory for keys and values. None: what vLLM takes by itself on a GPU, 1 on a CPU."""
    port: int | None = field(default=None, metadata=OPERATIONAL)
    """None: a free one."""
    start_timeout_s: float = field(default=1800.0, metadata=OPERATIONAL)
    """Until the server is healthy. A 70B model is read for minutes."""
    request_timeout_s: float = field(default=300.0, metadata=OPERATIONAL)
    """Of one answer."""
    min_prompts: int = 300
    """Held-out prompts to replay at least: the test rows, filled up with validation rows. Fewer are refused."""
    concurrency: int = 16
    """Requests at once, after a replay one by one."""
    adapter: bool = True
    """Serve the adapter alone as well, on the base in bf16 (--enable-lora), where vLLM takes such an adapter."""
