"""A wrong command name suggests the near one."""

from __future__ import annotations

import click

from tfrunner.errors import did_you_mean


class SuggestingGroup(click.Group):
    """A group of commands that says what a wrong name may have meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the arguments name.

        Raises:
            click.UsageError: There is none; the message names the near one.
        """
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            near = did_you_mean(args[0], self.list_commands(ctx))
            raise click.UsageError(f"No command {args[0]!r}.{near}", ctx)
        return super().resolve_command(ctx, args)
