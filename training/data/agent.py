"""A coding agent's loop on a tiny file: read it, edit it, verify, report."""

from dataclasses import dataclass

from data.base import Call, Dialogue, Reply, Source, User
from data.toolbox import AGENT, Bound, bind, command
from data.words import ADJECTIVES, NOUNS, STEMS, THINGS, VERBS, any_word, filler, made_up, path

SYSTEMS = ["You are a coding agent. Use the tools to read and edit files.", "You are Keid, a coding agent working in a folder.",
           "You are an agent. Read a file before you change it, and check your change.", "",
           "You are a coding agent running in the terminal. Be careful and brief.", "You are a helpful coding assistant."]


@dataclass
class Kit:
    """The names of an agent's tools and of their parameters: read, edit and, for some, a shell."""

    read: tuple[str, str]
    edit: tuple[str, str, str, str]
    shell: tuple[str, str]


KITS = [
    Kit(("Read", "file_path"), ("Edit", "file_path", "old_string", "new_string"), ("Bash", "command")),
    Kit(("read", "path"), ("edit", "path", "old", "new"), ("bash", "command")),
    Kit(("read_file", "path"), ("edit_file", "path", "old_text", "new_text"), ("run_command", "command")),
    Kit(("read_file", "file"), ("replace", "file", "search", "replace"), ("shell", "cmd")),
    Kit(("view", "path"), ("str_replace", "path", "old_str", "new_str"), ("exec", "command")),
    Kit(("open_file", "filename"), ("replace_text", "filename", "old_text", "new_text"), ("run", "command")),
    Kit(("read", "filePath"), ("edit", "filePath", "oldString", "newString"), ("bash", "command")),
    Kit(("read_file", "path"), ("edit_file", "path", "old_string", "new_string"), ("shell", "command")),
]
READ_WORDS = ["read", "view", "open", "cat", "get", "load", "print", "display", "fetch", "inspect", "see", "look_at", "dump"]
EDIT_WORDS = ["edit", "replace", "change", "modify", "update", "rewrite", "apply_edit", "substitute", "alter", "fix", "swap"]
SHELL_WORDS = ["bash", "shell", "run", "exec", "execute", "sh", "cmd", "console", "process", "run_shell", "system"]
PATH_KEYS = ["path", "file", "file_path", "filename", "filepath", "name", "location", "document", "which", "src"]
PAIRS = [("old", "new"), ("old_text", "new_text"), ("search", "replace"), ("find", "replacement"), ("from", "to"), ("old_str", "new_str"),
         ("original", "updated"), ("current", "wanted"), ("match", "insert"), ("was", "becomes"), ("old_string", "new_string")]
COMMAND_KEYS = ["command", "cmd", "script", "input", "text", "code", "shell_command", "run", "argv", "program"]


def random_kit(r: Source) -> Kit:
    """Names that differ from one agent to the next, so that the declarations must be read."""

    def name(known: list[str], suffixes: list[str]) -> str:
        if r.chance(0.35):
            return any_word(r) if r.chance(0.5) else f"{any_word(r)}_{any_word(r)}"
        return r.choice(known) + r.choice(suffixes)

    def key(known: list[str]) -> str:
        return any_word(r) if r.chance(0.35) else r.choice(known)

    where = key(PATH_KEYS)
    old, new = r.choice(PAIRS) if r.chance(0.65) else (any_word(r) + "_old", any_word(r) + "_new") if r.chance(0.5) else (
        any_word(r), any_word(r))
    while len({where, old, new}) < 3:
        old, new = old + "_a", new + "_b"
    shell = name(SHELL_WORDS, ["", "", "_command", "_cmd"])
    read, edit = name(READ_WORDS, ["", "_file", "_file", "_text", "_contents"]), name(EDIT_WORDS, ["", "_file", "_file", "_text", "_lines"])
    if len({shell, read, edit}) < 3:
        return random_kit(r)
    return Kit((read, where), (edit, where, old, new), (shell, key(COMMAND_KEYS)))


HELD_OUT_KIT = Kit(("show_file", "target"), ("patch_file", "target", "before", "after"), ("terminal", "line"))


def schema(name: str, about: str, keys: dict[str, str]) -> dict:
    """A declaration with required string parameters."""
    properties = {k: {"type": "string", **({"description": v} if v else {})} for k, v in keys.items()}
    return {"name": name, "description": about, "parameters": {"type": "object", "properties": properties,
                                                               "required": list(keys)}}


def declare(r: Source, kit: Kit) -> list[dict]:
    """The kit's tools among other agent tools, shuffled."""
    terse = r.chance(0.4)
    tools = [
        schema(kit.read[0], r.choice(["Read a file.", "Reads a file from disk.", "Returns the text of a file."]),
               {kit.read[1]: "" if terse else "Path of the file"}),
        schema(kit.edit[0], r.choice(["Replace text in a file.", "Edit a file by exact replacement.",
                                      "Performs exact string replacements in files."]),
               {kit.edit[1]: "" if terse else "Path of the file", kit.edit[2]: "" if terse else "Text to replace",
                kit.edit[3]: "" if terse else "Replacement"}),
        schema(kit.shell[0], r.choice(["Run a shell command.", "Executes a command in the shell."]),
               {kit.shell[1]: "" if terse else "Command line"}),
    ]
    names = {t["name"] for t in tools}
    for family in r.sample(AGENT, r.choice([0, 0, 0, 1, 2, 3])):
        extra: Bound = bind(r, family)
        if not names & {*family.names.split("|")} and extra.name not in names:
            tools.append(extra.schema)
            names.add(extra.name)
    r.shuffle(tools)
    return tools


def key_line(r: Source) -> tuple[str, str, str]:
    """(key, old value, new value) of a setting."""
    kind = r.random()
    if kind < 0.5:
        old, new = r.sample(range(1, 10000), 2)
        return name(r), str(old), str(new)
    if kind < 0.7:
        old, new = r.sample(["true", "false"], 2)
        return name(r), old, new
    old, new = (f'"{w}"' for w in r.sample([*THINGS, *ADJECTIVES, made_up(r)], 2))
    return name(r), old, new


def name(r: Source) -> str:
    return r.choice([r.choice(STEMS), r.choice(NOUNS), f"{r.choice(NOUNS)}_{r.choice(['size', 'limit', 'count', 'name', 'path'])}",
                     r.choice(STEMS).upper(), f"MAX_{r.choice(NOUNS).upper()}", made_up(r)])


def settings_task(r: Source) -> tuple[str, str, str, str, str]:
    """-> request (with {path}), file text, old line, new line, report."""
    lines, joint = [], r.choice([" = ", " = ", "=", ": "])
    for key in dict.fromkeys(name(r) for _ in range(r.randint(1, 4))):
        _, v, _ = key_line(r)
        lines.append((key, v))
    key, old, new = key_line(r)
    lines = [line for line in lines if line[0] != key]
    lines.insert(r.randint(0, len(lines)), (key, old))
    text = "\n".join(k + joint + v for k, v in lines)
    ask = r.choice(["Change {k} to {n} in {{path}}.", "Set {k} to {n} in {{path}}.", "In {{path}}, change {k} from {o} to {n}.",
                    "Edit {{path}}: {k} should be {n}.", "Please set {k} = {n} in {{path}}.", "Update {k} in {{path}} to {n}."])
    return ask.format(k=key, o=old, n=new), text, key + joint + old, key + joint + new, f"{key} is now {new}"


def rename_task(r: Source) -> tuple[str, str, str, str, str]:
    """Rename a function in a small program."""
    old, new = (f"{r.choice(VERBS)}_{r.choice(NOUNS)}" if r.chance(0.6) else made_up(r) for _ in range(2))
    if old == new:
        new += "_two"
    line = r.choice(["def {f}():", "fn {f}() {{", "function {f}() {{", "def {f}(x):"])
    inner = r.choice(["    return {n}", "    print({n})", "    pass"]).format(n=r.randint(0, 99))
    head = r.choice(["", f"# {r.choice(STEMS)}\n", f"{r.choice(STEMS)} = {r.randint(0, 9)}\n"])
    text = head + line.format(f=old) + "\n" + inner + ("\n}" if line.endswith("{{") else "")
    ask = r.choice(["Rename the function {o} to {n} in {{path}}.", "In {{path}}, rename {o} to {n}.", "Rename {o} to {n} in {{path}}."])
    return ask.format(o=old, n=new), text, line.format(f=old), line.format(f=new), f"{old} is now {new}"


def typo_task(r: Source) -> tuple[str, str, str, str, str]:
    """Replace a word in a line of text."""
    old, new = r.sample(THINGS, 2)
    line = r.choice(["The {a} {w} is here.", "Buy a {w} today.", "I saw a {a} {w}.", "print(\"{w}\")"]).format(
        w=old, a=r.choice(ADJECTIVES)) if r.chance(0.8) else f"{made_up(r)} {old} {made_up(r)}"
    others = [f"{r.choice(ADJECTIVES)} {made_up(r)}" for _ in range(r.randint(0, 3))]
    at = r.randint(0, len(others))
    text = "\n".join([*others[:at], line, *others[at:]])
    ask = r.choice(["Replace {o} with {n} in {{path}}.", "In {{path}}, replace \"{o}\" by \"{n}\".", "Change the word {o} to {n} in {{path}}."])
    return ask.format(o=old, n=new), text, line, line.replace(old, new), f"{old} is now {new}"


def loop(r: Source, kit: Kit) -> list[User | Reply]:
    """User request -> read -> edit -> verify -> report."""
    ask, text, old, new, report = r.choices([settings_task, rename_task, typo_task], [3, 1.5, 1])[0](r)
    where = path(r)
    read = Call(kit.read[0], {kit.read[1]: where})
    edit = Call(kit.edit[0], {kit.edit[1]: where, kit.edit[2]: old, kit.edit[3]: new})
    after = text.replace(old, new, 1)
    turns: list[User | Reply] = [
        User(ask.format(path=where)), Reply("", "First I read the file.", [read]),
        User("", [text]), Reply("", "Now I make the change.", [edit]),
        User("", [r.choice(["ok", "ok", "The file was edited.", f"Edited {where}", "1 replacement made"])]),
    ]
    check = r.choice(["cargo test", "npm test", "pytest -q", "make test"]) if r.chance(0.3) else ""
    if check:
        user = turns[0]
        user.text += r.choice([" Then run {c}.", " Check it with {c}.", " Verify with `{c}`."]).format(c=check)
        call = Call(kit.shell[0], {kit.shell[1]: check})
        turns += [Reply("", f"Now I check it with {check}.", [call]), User("", [r.choice(["ok", f"{r.randint(1, 99)} passed"])])]
    else:
        turns += [Reply("", "Now I check the result.", [read]), User("", [after])]
    return turns + [Reply(f"Done: {report} in {where}.", "The change is in place.")]


def dialogue(r: Source, unseen: bool = False) -> Dialogue:
    """One or two loops, sometimes with a plain command between; `unseen` uses tool names kept out of training."""
    kit = HELD_OUT_KIT if unseen else r.choice(KITS)
    if not unseen and r.chance(0.6):
        kit = random_kit(r)
    elif not unseen and r.chance(0.3):
        kit = Kit(r.choice(KITS).read, r.choice(KITS).edit, r.choice(KITS).shell)
    tools = declare(r, kit)
    turns = loop(r, kit)
    if not r.test and r.chance(0.4):
        line = command(r)
        turns = [User(r.choice(["Run {c}", "Run `{c}`.", "Execute {c}"]).format(c=line)),
                 Reply("", f"I should call \"{kit.shell[0]}\".", [Call(kit.shell[0], {kit.shell[1]: line})]), User("", ["ok"]),
                 Reply("Done.", "The tool has finished.")] + turns
    if not r.test and r.chance(0.3):
        turns += loop(r, kit)
    system = r.choice(SYSTEMS) + ("\n\n" + filler(r, r.randint(2, 12)) if r.chance(0.2) else "")
    return Dialogue("agent", turns, tools=tools, system=system)


def case(r: Source, unseen: bool = False) -> Dialogue:
    """A test case: the loop cut at a random reply."""
    d = dialogue(r, unseen)
    replies = [i for i, t in enumerate(d.turns) if isinstance(t, Reply)]
    last = r.choice(replies)
    d.turns = d.turns[: last + 1]
    reply = d.turns[last]
    d.expect = ({"rule": "calls", "calls": [{"name": c.name, "arguments": c.arguments} for c in reply.calls]}
                if reply.calls else {"rule": "exact", "answer": reply.text})
    return d
