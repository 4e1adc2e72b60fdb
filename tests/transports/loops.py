"""The kinds of event loops that members run on, by name, as ``asyncio.Runner`` wants
them."""

from __future__ import annotations

import uvloop

LOOPS = {"asyncio": None, "uvloop": uvloop.new_event_loop}
