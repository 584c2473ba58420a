"""From ``--gateway`` and the environment to an open session, or to a sandbox of our own."""

# ruff: noqa: PLC0415 - aiohttp and all that needs it is imported when a command runs: `--help`
# must be there at once

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import attrs

from comet_async.cli.console import Screen
from comet_async.cli.options import Connection
from comet_async.errors import ConfigError

if TYPE_CHECKING:
    from comet_async.auth import Credentials
    from comet_async.config import Config, Network
    from comet_async.gateways import Gateway
    from comet_async.sandbox import Sandbox

SPEED = 20.0
"""How many times faster than the service the sandbox of this process is: its tasks take 0.4 to
2 s, which is as long as painting an image takes."""


@attrs.frozen(kw_only=True)
class Endpoint:
    """Where requests go, how they get there, and what signs them.

    Attributes:
        gateway: The API.
        credentials: The key.
        network: The proxies, if there are any.
        sandbox: The server, if it runs in this process.
    """

    gateway: Gateway
    credentials: Credentials = attrs.field(repr=False)
    network: Network | None = None
    sandbox: Sandbox | None = None


@asynccontextmanager
async def open_endpoint(connection: Connection, screen: Screen) -> AsyncGenerator[Endpoint, None]:
    """Find the API and its key, and start the sandbox if it is chosen.

    Raises:
        ConfigError: There is no key, or a setting can't be used.
        MissingExtraError: The sandbox needs a library that is not installed.
    """
    from comet_async.auth import ApiKey
    from comet_async.gateways import Gateway
    from comet_async.secret import Secret

    if not connection.is_sandbox:
        endpoint = find_endpoint(connection.gateway, connection.proxy)
        screen.hide(endpoint.credentials.secrets)
        yield endpoint
        return
    from comet_async.sandbox import DEFAULT_KEY, Sandbox

    async with Sandbox(speed=SPEED) as sandbox:
        # Each sandbox has a port of its own; the folder's journal must know it again.
        yield Endpoint(
            gateway=attrs.evolve(Gateway.comet(sandbox.url), identity="sandbox of this command"),
            credentials=ApiKey(Secret(DEFAULT_KEY)),
            sandbox=sandbox,
        )


def offline_endpoint(connection: Connection) -> Endpoint:
    """Return an endpoint that is never used: enough to plan, without a key or a server.

    Raises:
        ConfigError: A setting can't be used.
    """
    from comet_async.auth import ApiKey
    from comet_async.config import Config, choose_gateway, config_path
    from comet_async.gateways import Gateway
    from comet_async.secret import Secret

    unused = ApiKey(Secret("no-key-is-needed-to-plan"))
    if connection.is_sandbox:
        return Endpoint(gateway=Gateway.comet("http://127.0.0.1:9"), credentials=unused)
    config = Config.read(config_path(os.environ))
    return Endpoint(
        gateway=choose_gateway(connection.gateway, os.environ, config),
        credentials=unused,
        network=_network(connection.proxy, config),
    )


def find_endpoint(gateway: str | None, proxy: str | None) -> Endpoint:
    """Return where *gateway*, *proxy*, the environment and the configuration file lead.

    Raises:
        ConfigError: There is no key, or a setting can't be used.
        InputError: *proxy* is not the address of a proxy.
    """
    from comet_async.config import Config, choose_credentials, choose_gateway, config_path

    if gateway == "sandbox":
        raise ConfigError(
            "--gateway sandbox only works with expand and doctor",
            hint="start 'comet-async sandbox', and pass its URL with --gateway",
        )
    config = Config.read(config_path(os.environ))
    chosen = choose_gateway(gateway, os.environ, config)
    credentials = choose_credentials(None, chosen, os.environ, config)
    return Endpoint(gateway=chosen, credentials=credentials, network=_network(proxy, config))


def _network(proxy: str | None, config: Config) -> Network:
    from comet_async.config import Network

    return Network(proxy=proxy or config.proxy, trust_env=True)
