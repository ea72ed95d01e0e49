"""Texts generated from the declared settings."""

from __future__ import annotations

from cifarctl.settings.declared import as_text, declared, summary


def env_example() -> str:
    """The text of .env.example: every setting, commented out, at its default."""
    lines = ["# Every setting of cifarctl at its default. Copy to .env and uncomment the ones you change.", ""]
    section = ""
    for setting in declared():
        head = setting.name.partition(".")[0]
        if head != section:
            section = head
            lines += [f"# --- {section}: {summary(section)}", ""]
        lines += [f"# {setting.description}", f"# {setting.environment}={as_text(setting.default)}", ""]
    return "\n".join(lines)


def reference() -> str:
    """The settings table of the README, in Markdown."""
    lines = ["| setting | default | meaning |", "|---|---|---|"]
    for setting in declared():
        default = as_text(setting.default)
        meaning = setting.description.replace("|", "\\|")
        lines.append(f"| `{setting.name}` | {f'`{default}`' if default else ''} | {meaning} |")
    return "\n".join(lines) + "\n"
