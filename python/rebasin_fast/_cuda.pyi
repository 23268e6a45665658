from typing import Any

RUNTIME_VERSION: int

def device_query() -> tuple[list[dict[str, Any]], str]: ...
