"""``bytewax-redis-state doctor --acl``: print the least rights that a role needs."""

from __future__ import annotations

import argparse
import json

from bytewax_redis_state.config import Durability, RedisConfig, redis_url_from_env
from bytewax_redis_state.server.acl import ROLES, acl_rules

__all__ = ["add_options", "print_rules"]


def add_options(made: argparse.ArgumentParser, what: argparse._MutuallyExclusiveGroup) -> None:
    """Add the options to the command.

    :arg what: The group of options of which exactly one must be given.
    """
    what.add_argument(
        "--acl",
        choices=ROLES,
        help="print the ACL rules of a Redis user that runs flows, verifies them, or reads their "
        "state; connects to no server, but adds the rules of a cluster if --redis names one",
    )
    made.add_argument(
        "--flow",
        metavar="FLOW",
        help="with --acl: the rules of this flow only (default: all flows)",
    )
    made.add_argument(
        "--user", metavar="NAME", help="with --acl: name of the user (default: the role)"
    )
    made.add_argument(
        "--durability",
        default="memory",
        metavar="LEVEL",
        help="with --acl: the --durability of the flows: memory (default), aof or replicas:N",
    )


def print_rules(args: argparse.Namespace) -> int:
    """Print the rules of a role.

    :arg args: Options of the command.
    :returns: 0.
    :raises ConfigError: If the durability level or the URL is wrong.
    """
    level = Durability.parse(args.durability).level
    url = args.redis or redis_url_from_env()
    clustered = url is not None and RedisConfig(url=url).cluster_mode
    rules = acl_rules(args.acl, args.namespace, args.flow, level, clustered=clustered)
    user = args.user or args.acl
    if args.json:
        print(json.dumps({"user": user, "rules": rules}))
    else:
        print(f"ACL SETUSER {user} {' '.join(rules)} >PASSWORD")
    return 0
