#!/usr/bin/env python3
"""Makes aioloop.h, the one file that users copy, out of the files under src/.

src/aioloop.h, the spine, is a C header that includes every other file of src/ in layer order. This
tool replaces each of those #include lines by the file it names. An #include "..." inside such a file
serves the reader and the editor and is dropped; #include <...> and every #if stay as they are.
A mark in front of each piece, such as /* >> src/core/loop.c */, says where it came from.

Before that it checks what no compiler does:
  - a file includes only files that stand above it in the spine, by paths relative to src/;
  - the spine reaches every .c and .h file under src/, each once;
  - every macro and every name at file scope has the project's prefix;
  - core/, net/, high/ and api/ do not ask which platform they run on, and only base/platform.h
    includes system headers beyond a few of the language's own.
"""

import argparse
import collections
import os
import posixpath
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SPINE = "aioloop.h"
BANNER = "/* Generated from src/ by tools/amalgamate.py. Do not edit: change src/ and run `make header`. */"

PREFIXED = re.compile(r"(?:aioloop|aiol|AIOLOOP|AIOL)_|aioloop$")

# Names that are not ours to choose, and why src/ defines or declares them all the same.
FOREIGN = {
    "_GNU_SOURCE": "glibc, musl: declares accept4, pipe2, epoll_pwait2 and the like",
    "_DEFAULT_SOURCE": "glibc, musl: what BSD and POSIX share, when -std=c99 hides it",
    "_DARWIN_C_SOURCE": "macOS: declares what _POSIX_C_SOURCE hides",
    "_FILE_OFFSET_BITS": "32-bit systems: a 64-bit off_t",
    "_TIME_BITS": "32-bit glibc: a 64-bit time_t",
    "_WIN32_WINNT": "Windows: which version's declarations are seen",
    "WIN32_LEAN_AND_MEAN": "Windows: keeps the old winsock.h out of windows.h",
    "NOMINMAX": "Windows: keeps the macros min and max out of the user's C++",
    "__attribute__": "tcc: glibc defines it away, which unpacks struct epoll_event",
    "environ": "POSIX: the one variable that no header has to declare",
}

API_HEADERS = {"stddef.h", "stdint.h", "stdbool.h"}
PLAIN_HEADERS = API_HEADERS | {"stdarg.h", "string.h"}
TLS_HEADERS = ("mbedtls/", "psa/")
TLS_FILE = "tls/mbedtls.c"
PLATFORM_FILE = "base/platform.h"       # includes any header
CONFIG_FILE = "api/config.h"            # the one file of api/ that may ask for the platform
NO_PLATFORM = ("api/", "core/", "net/", "high/")
PLATFORM_PREFIXES = ("AIOL_HAVE_", "AIOL_OS_")
PLATFORM_MACROS = set("""
    _WIN32 _WIN64 WIN32 __CYGWIN__ __MINGW32__ __MINGW64__ _MSC_VER
    __linux __linux__ linux __gnu_linux__ __ANDROID__ __unix __unix__ unix __APPLE__ __MACH__
    __FreeBSD__ __NetBSD__ __OpenBSD__ __DragonFly__ BSD __sun __sun__ _AIX __HAIKU__ __QNX__
    __EMSCRIPTEN__ __wasm__ __GLIBC__ __GLIBC_MINOR__ __UCLIBC__ __BIONIC__ __NEWLIB__
    __x86_64__ __i386__ __aarch64__ __arm__ __riscv _M_X64 _M_IX86 _M_ARM _M_ARM64
""".split())

# ---- reading C ------------------------------------------------------------------------------------

COMMENT_OR_LITERAL = re.compile(
    r'//(?:\\\n|[^\n])*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)
DIRECTIVE = re.compile(r"^[ \t]*#[ \t]*(\w+)((?:[^\\\n]|\\\n|\\.)*)", re.M)
QUOTED, SYSTEM = re.compile(r'"([^"]*)"'), re.compile(r"<([^>]*)>")
WORD = re.compile(r"[A-Za-z_]\w*")
TOKEN = re.compile(r"\n|#\w+|[A-Za-z_]\w*|\.?\d(?:[eEpP][+-]|[\w.])*|[=!<>]=|::|[^\s\w]")

Directive = collections.namedtuple("Directive", "line last word rest")      # lines are counted from 1
Token = collections.namedtuple("Token", "line text inside")     # a bracket holds the tokens inside it


class Source:
    """One file of src/: its text, its directives, and its code without directives and comments."""

    def __init__(self, folder, path):
        self.path = path
        with open(os.path.join(folder, path), encoding="utf-8-sig", errors="surrogateescape") as file:
            self.text = file.read()
        text = COMMENT_OR_LITERAL.sub(without_comment, self.text)
        self.directives = []
        for match in DIRECTIVE.finditer(text):
            first = text.count("\n", 0, match.start()) + 1
            last = first + match.group().count("\n")
            rest = match.group(2).replace("\\\n", " ").strip()
            self.directives.append(Directive(first, last, match.group(1), rest))
        text = DIRECTIVE.sub(conditional_mark, text).replace("\\\n", "\n")
        self.code = COMMENT_OR_LITERAL.sub(lambda m: '"' + "\n" * m.group().count("\n"), text)

    def includes(self, form):
        """Yields (directive, path) for each #include of the form QUOTED or SYSTEM."""
        for directive in self.directives:
            match = form.match(directive.rest)
            if directive.word == "include" and match:
                yield directive, match.group(1)


def without_comment(match):
    """A comment is a space. Its line ends become continuations, so that a directive goes on after it."""
    text = match.group()
    return text if text[0] in "\"'" else " " + "\\\n" * text.count("\n")


def conditional_mark(match):
    """Of its directives the code keeps only where alternatives begin, change and end."""
    form = re.match("if|el|endif", match.group(1))
    return ("#" + form.group() if form else "") + "\n" * match.group().count("\n")


# ---- names at file scope --------------------------------------------------------------------------
# Not a C parser: it finds the names that plain declarations declare, and is silent where it is unsure.

ATTRIBUTE = re.compile(r"(?:AIOLOOP|AIOL)_|_(?!Bool$)[A-Z_]")      # AIOLOOP_API, __attribute__, _Alignas
QUALIFIERS = set("static extern inline const volatile register typedef constexpr thread_local".split())
AGGREGATES = {"struct", "union", "enum", "class"}
TYPES = AGGREGATES | set("void char short int long float double signed unsigned bool _Bool auto".split())
AGGREGATE_BODY = re.compile(r"\b(struct|union|enum|class)(?: (\w+))?(?: :[\w ]+)? \{$")
UNSURE = {"template", "using", "namespace", "operator", "friend", "::"}


def texts(tokens):
    return [token.text for token in tokens]


def is_word(token):
    return WORD.match(token.text) is not None


def declarations(code):
    """Lists the declarations at file scope, without function bodies.

    Each alternative of an #if starts from the brackets that were open there, so that both heads of
    a function with one body are seen and what one alternative leaves open does not mislead the next.
    """
    found = []
    line = 1
    stack = [[]]       # the lists being filled: the declaration's, then each open bracket's
    saved = []         # for each open #if: the stack, and what the declaration held

    def finish():
        found.append(stack[0][:-1] if is_function(stack[0]) else stack[0])
        stack[:] = [[]]

    for text in TOKEN.findall(code):
        if text == "\n":
            line += 1
        elif text == "#if":
            saved.append((list(stack), list(stack[0])))
        elif text == "#el" and saved:
            lists, declaration = saved[-1]
            if len(lists) == 1:
                if "{" in texts(stack[0]):
                    finish()
                lists = [list(declaration)]
            stack[:] = lists
        elif text == "#endif" and saved:
            saved.pop()
        elif text == "{" and len(stack) == 1 and texts(stack[0][-2:]) == ["extern", '"']:
            del stack[0][-2:]      # extern "C" opens nothing; its } finds nothing to close
        elif text in ("(", "[", "{"):
            bracket = Token(line, text, [])
            stack[-1].append(bracket)
            stack.append(bracket.inside)
        elif text in (")", "]", "}"):
            if len(stack) > 1:
                stack.pop()
                if len(stack) == 1 and is_function(stack[0]):
                    finish()
        elif text == ";" and len(stack) == 1:
            finish()
        else:
            stack[-1].append(Token(line, text, ()))
    return found


def is_function(declaration):
    """Does it end with a function's body, not a struct's or enum's? (An initialiser is taken for one: no harm.)"""
    words = texts(plain(declaration))
    return words[-1:] == ["{"] and not AGGREGATE_BODY.search(" ".join(words))


def plain(tokens):
    """Drops qualifiers, attributes and our macros with their arguments, which leaves types and names."""
    kept = []
    arguments = False
    for token in tokens:
        if arguments and token.text == "(" and texts(token.inside[:1]) != ["*"]:
            arguments = False
            continue
        arguments = ATTRIBUTE.match(token.text) is not None
        if not arguments and token.text not in QUALIFIERS:
            kept.append(token)
    return kept


def declared(declaration):
    """Yields the functions, variables and typedefs that a declaration declares."""
    tokens = plain(declaration)
    typed = False
    while tokens and not UNSURE & set(texts(tokens)):
        end = (texts(tokens) + [","]).index(",")
        name = declarator(tokens[:end], typed)
        if name:
            yield name
        tokens = tokens[end + 1:]
        typed = True


def declarator(tokens, typed):
    """The last word in front of ( [ = : or the end, if a type stands before it; or name in (*name)(...)."""
    name = None
    for i, token in enumerate(tokens):
        if token.text in TYPES:
            typed = True
        elif is_word(token):
            if i == 0 or tokens[i - 1].text not in AGGREGATES:      # not a tag
                typed = typed or name is not None
                name = token
        elif token.text == "(" and (texts(token.inside[:1]) == ["*"] or texts(tokens[i + 1:i + 2]) == ["("]):
            return inner_declarator(token.inside)
        elif token.text in ("(", "[", "=", ":"):
            break
    return name if typed else None


def inner_declarator(tokens):
    after_star = (texts(tokens) + ["*"]).index("*") + 1
    for token in tokens[after_star:] or tokens:
        if token.text == "(":
            return inner_declarator(token.inside)
        if is_word(token) and token.text not in QUALIFIERS:
            return token
    return None


def defined(tokens):
    """Yields the tags and the enum constants that have their body here, at any depth."""
    tokens = plain(tokens)
    for i, token in enumerate(tokens):
        body = token.text == "{" and AGGREGATE_BODY.search(" ".join(texts(tokens[max(i - 8, 0):i + 1])))
        if body and body.group(2):
            yield Token(token.line, body.group(2), ())
        if body and body.group(1) == "enum":
            inside = token.inside
            for before, name, after in zip([","] + texts(inside), inside, texts(inside[1:]) + [","]):
                if before == "," and is_word(name) and after in (",", "="):
                    yield name
        yield from defined(token.inside)


# ---- the checks: each yields (line, "what is wrong; the remedy") ------------------------------------

def check_names(source):
    for directive in source.directives:
        match = WORD.match(directive.rest)
        if directive.word in ("define", "undef") and match and not is_ours(match.group()):
            name = match.group()
            yield directive.line, ("the macro %s has no prefix; call it AIOL_%s, or if its name is not ours add it"
                                   " to FOREIGN in tools/amalgamate.py with the reason" % (name, name.upper()))
    for declaration in declarations(source.code):
        for name in list(declared(declaration)) + list(defined(declaration)):
            if not is_ours(name.text):
                prefix = "AIOL_" if name.text.isupper() else "aiol_"
                yield name.line, "%s stands at file scope without a prefix; call it %s%s" % (
                    name.text, prefix, name.text)


def is_ours(name):
    return PREFIXED.match(name) or name in FOREIGN


def check_platform(source):
    api = source.path.startswith("api/")
    for directive, path in source.includes(SYSTEM):
        if not (source.path == PLATFORM_FILE or path in (API_HEADERS if api else PLAIN_HEADERS)
                or source.path == TLS_FILE and path.startswith(TLS_HEADERS)):
            remedy = ("declare without it: api/ has only " + ", ".join(sorted(API_HEADERS)) if api
                      else "include it in src/" + PLATFORM_FILE)
            yield directive.line, "<%s> may not be included here; %s" % (path, remedy)
    if not source.path.startswith(NO_PLATFORM) or source.path == CONFIG_FILE:
        return
    for directive in source.directives:
        for word in WORD.findall(directive.rest) if directive.word.startswith(("if", "elif")) else ():
            if word in PLATFORM_MACROS or word.startswith(PLATFORM_PREFIXES):
                remedy = "a macro of src/" + CONFIG_FILE if api else "one function of sys/, poll/ or io/"
                yield directive.line, "#%s depends on %s; put the difference behind %s" % (
                    directive.word, word, remedy)


def check_includes(source, order, files):
    for directive, path in source.includes(QUOTED):
        beside = posixpath.normpath(posixpath.join(posixpath.dirname(source.path), path))
        if path == source.path:
            yield directive.line, "the file includes itself; remove the line"
        elif path == SPINE:
            yield directive.line, "the spine includes this file; include what is needed from the spine's files"
        elif path in order:
            if order[path] > order[source.path]:
                yield directive.line, ('"%s" stands below this file in the spine; move one of them, or call through'
                                       " a function pointer that the lower layer keeps" % path)
        elif path in files:
            yield directive.line, '"%s" is not in the spine; add it to src/%s' % (path, SPINE)
        elif beside in files:
            yield directive.line, '"%s" is not a path from src/; write "%s"' % (path, beside)
        else:
            yield directive.line, '"%s" does not exist under src/; correct or remove the line' % path


def check_spine(spine, files):
    """Returns {path: the line of the spine that includes it} and the errors."""
    order, errors = {}, []
    for directive, path in spine.includes(QUOTED):
        if path in order:
            # Two places mean two conditions; text under the first alone would be missing under the second.
            problem = '"%s" stands in line %d already; include it once, under both conditions' % (path, order[path])
            errors.append((SPINE, directive.line, problem))
        elif path not in files - {SPINE}:
            errors.append((SPINE, directive.line, '"%s" does not exist under src/; correct or remove the line' % path))
        else:
            order[path] = directive.line
    for path in files - set(order) - {SPINE}:
        errors.append((path, 1, 'the spine does not reach this file; add #include "%s" to src/%s, or delete it'
                       % (path, SPINE)))
    return order, errors


# ---- the header -----------------------------------------------------------------------------------

def amalgamate(folder):
    """Returns the header's text and the errors, each (path, line, message)."""
    files = set()
    for parent, _, names in os.walk(folder):
        for name in names:
            if name.endswith((".c", ".h")) and not name.startswith("."):
                files.add(os.path.relpath(os.path.join(parent, name), folder).replace(os.sep, "/"))
    if SPINE not in files:
        return "", [(SPINE, 1, "the file does not exist; name its folder with --src")]
    spine = Source(folder, SPINE)
    order, errors = check_spine(spine, files)
    sources = {path: Source(folder, path) for path in order}
    for source in [spine] + list(sources.values()):
        found = list(check_names(source)) + list(check_platform(source))
        if source is not spine:
            found += check_includes(source, order, files)
        errors += [(source.path, line, message) for line, message in found]
    return "" if errors else expand(spine, sources), sorted(set(errors))


def expand(spine, sources):
    lines = [BANNER]
    included = {directive.line: path for directive, path in spine.includes(QUOTED)}
    in_spine = False
    for number, line in lines_without_includes(spine):
        if number in included:
            lines += ["", "/* >> src/%s */" % included[number]]
            lines += [text for _, text in lines_without_includes(sources[included[number]])]
            in_spine = False
        else:
            if line.strip() and not in_spine:
                lines += ["", "/* >> src/%s */" % SPINE]
                in_spine = True
            lines.append(line)
    return re.sub(r"\n(?:[ \t]*\n){2,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def lines_without_includes(source):
    """Yields (number, line), the line empty where an #include "..." stands."""
    gone = set()
    for directive, _ in source.includes(QUOTED):
        gone.update(range(directive.line, directive.last + 1))
    for number, line in enumerate(source.text.split("\n"), 1):
        yield number, "" if number in gone else line


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Makes aioloop.h out of the files under src/.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the header is not up to date")
    parser.add_argument("--output", metavar="FILE", default=os.path.join(ROOT, SPINE))
    parser.add_argument("--src", metavar="DIR", default=os.path.join(ROOT, "src"))
    options = parser.parse_args(arguments)

    text, errors = amalgamate(options.src)
    for path, line, message in errors:
        print("src/%s:%d: %s" % (path, line, message), file=sys.stderr)
    if errors:
        return 1
    data = text.encode("utf-8", "surrogateescape")
    old = None
    if os.path.exists(options.output):
        with open(options.output, "rb") as file:
            old = file.read()
    name = os.path.basename(options.output)
    if old == data:
        print("%s is up to date" % name)
    elif options.check:
        print("%s is not what src/ makes; run: make header" % name, file=sys.stderr)
        return 1
    else:
        temporary = "%s.%d.tmp" % (options.output, os.getpid())     # nobody ever reads half a header
        with open(temporary, "wb") as file:
            file.write(data)
        os.replace(temporary, options.output)
        print("%s: %d lines" % (name, text.count("\n")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
