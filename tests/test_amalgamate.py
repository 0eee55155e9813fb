#!/usr/bin/env python3
"""Tests of tools/amalgamate.py on small source trees. Run: python3 tests/test_amalgamate.py"""

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(ROOT, "tools"))

import amalgamate      # noqa: E402  (found through the line above)

GOOD = {
    "aioloop.h": """\
#ifndef AIOLOOP_H
#define AIOLOOP_H
#include "api/config.h"

#include "api/loop.h"
#endif

#if defined(AIOLOOP_IMPLEMENTATION) && !defined(AIOLOOP_IMPLEMENTED)
#define AIOLOOP_IMPLEMENTED
#include "base/platform.h"
#include "base/list.h"          /* the queue's links */
#if AIOL_HAVE_QUEUE
#include "io/queue.c"
#endif
#include "core/loop.c"
#endif
""",
    "api/config.h": """\
#ifndef AIOLOOP_API_CONFIG_H
#define AIOLOOP_API_CONFIG_H
#ifdef _WIN32
#define AIOLOOP_API extern
#else
#define AIOLOOP_API extern
#endif
#endif
""",
    "api/loop.h": """\
#ifndef AIOLOOP_API_LOOP_H
#define AIOLOOP_API_LOOP_H
#include "api/config.h"
#include <stdint.h>
/*
#include "api/in_a_comment.h"
*/
AIOLOOP_API int32_t aioloop_answer(void);
#endif
""",
    "base/platform.h": """\
#ifndef AIOL_PLATFORM_H
#define AIOL_PLATFORM_H
#include <stdio.h>
#define AIOL_HAVE_QUEUE 1
#endif
""",
    "base/list.h": """\
#ifndef AIOL_LIST_H
#define AIOL_LIST_H



typedef struct aiol_list { struct aiol_list *next; } aiol_list;
#endif
""",
    "io/queue.c": """\
#ifndef AIOL_QUEUE_C
#define AIOL_QUEUE_C
#include "base/list.h"
static int aiol_queue_length(const aiol_list *list) { return list == NULL ? 0 : 42; }
#endif""",      # no newline at its end
    "core/loop.c": """\
#include "api/loop.h"
#include "base/list.h"
#include "io/queue.c"
#include <string.h>

int32_t aioloop_answer(void) {
    aiol_list list;
    memset(&list, 0, sizeof(list));
    return aiol_queue_length(&list);
}
""",
    "README.md": "The map.\n",
}

USER = """\
#define AIOLOOP_IMPLEMENTATION
#include "aioloop.h"
#include "aioloop.h"
int main(void) { return aioloop_answer() == 42 ? 0 : 1; }
"""

# Legal and with prefixes, or a macro, or not ours to name.
ORDINARY_C = r"""
#define _GNU_SOURCE 1
#define aioloop_call_soon AIOLOOP_SITE(aioloop_call_soon)
#define AIOL_MULTI(name) \
    int name; \
    int not_ours(void) { return "
#error don't stumble over an apostrophe
extern char **environ;
struct sockaddr;
typedef struct aioloop aioloop;
typedef struct aiol_op aiol_op, *aiol_op_pointer;
typedef void (*aioloop_callback)(aioloop *loop, void *arg);
typedef BOOL (WINAPI *aiol_connect_ex)(SOCKET s, const struct sockaddr *name);
typedef enum aioloop_state { AIOLOOP_ERRORS(AIOL_X) AIOL_LAST } aioloop_state;
enum { AIOL_ONE = 1 /* one, */, AIOL_TWO = AIOL_F(one, two), AIOL_THREE = (1, two), };
struct AIOL_ALIGNED(64) aiol_slot { int a, b; union { int c; char d[4]; } u; void (*done)(int x, int y); };
struct __attribute__((packed)) aiol_packed { unsigned bit : 3, other : 4; } AIOL_PACKED;

AIOL_STATIC_ASSERT(sizeof(struct aiol_slot) == 64, slot_size);
AIOLOOP_ERRORS(AIOL_X)
static const struct { int code; const char *text; } aiol_errors[] = {
#if AIOL_A
    { 1, "one { ; \" int x;" },
#else
    { 2, "two" },
#endif
    { '{', "}" }, { '"', "'" }, { '\'', "\\" }
};
static const char *const aiol_names[AIOL_COUNT(x, y)] = { "a", "b" }, *aiol_more = "int c;";
static AIOL_THREAD_LOCAL aioloop *aiol_running;
static int (*const aiol_table[2])(int a, int b) = { 0, 0 };
static struct aiol_op *aiol_first(void), *aiol_second(struct aiol_op *op);
static struct aiol_op aiol_by_value(struct aiol_op op) { struct inner { int x; } y; enum { LOCAL } z; return op; }
AIOLOOP_API int64_t aioloop_await(aioloop_future *future,
                                  void *out /* , a comment { */)
    AIOL_UNUSED_RESULT AIOL_PRINTF(1, 2);
AIOL_PRINTF(3, 4) static int aiol_log(aioloop *loop, int level,
                                      const char *format, ...) AIOL_COLD;
aioloop_future *(aioloop_sleep)(aioloop *loop, int64_t delay) { return 0; }
static DWORD WINAPI aiol_thread(LPVOID arg) { for (;;) { } }
static unsigned long AIOL_STATE = AIOL_A + counter;
static size_t AIOL_SIZE;
__asm__(".text\n"
        "switch_stack: ret\n");
_Static_assert(sizeof(int) == 4, "int");
AIOL_DEFINE_VISITOR(int, visit) { return 0; }
// int commented_out; \
   int this_too;
static int aiol_branches(int a) {
#if AIOL_A
    if (a) {
#else
    if (!a) {
#endif
        return 1;
    }
    return 0;
}
#ifdef _WIN32
static int aiol_two_heads(int a)
#else
static int aiol_two_heads(int a, int b)
#endif
{ int local; return a; }
#ifdef __cplusplus
}
extern "C++" {
template <class T, typename U> inline int64_t aioloop_await(aioloop_future *future, T **out) {
    return aioloop_await(future, static_cast<void *>(out));
}
inline bool operator==(aioloop_handle a, aioloop_handle b) { return a.slot == b.slot; }
}
extern "C" {
#endif
"""


class TreeTest(unittest.TestCase):
    """Each test has a temporary folder with the tree GOOD in src/, which it changes."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = folder.name
        self.output = os.path.join(self.root, "aioloop.h")
        for path, text in GOOD.items():
            self.write(path, text)

    def write(self, path, text):
        path = os.path.join(self.root, "src", path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8", newline="") as file:
            file.write(text)

    def run_tool(self, *options):
        """Returns (exit code, everything printed)."""
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            code = amalgamate.main(["--src", os.path.join(self.root, "src"), "--output", self.output, *options])
        return code, printed.getvalue()

    def header(self):
        with open(self.output, "rb") as file:
            return file.read().decode("utf-8")

    def make(self):
        code, printed = self.run_tool()
        self.assertEqual(code, 0, printed)
        return self.header()

    def refuses(self, path, text, *expected):
        """The tree with this file is refused, for these reasons and no other; nothing is written."""
        self.write(path, text)
        code, printed = self.run_tool()
        self.assertEqual(code, 1)
        self.assertEqual(len(printed.splitlines()), len(expected), printed)
        for line, part in zip(printed.splitlines(), expected):
            self.assertIn(part, line)
            self.assertRegex(line, r"^src/[\w./]+:\d+: [^;]+; .+$")
        self.assertFalse(os.path.exists(self.output))

    def add(self, path, text):
        """Adds a file and includes it at the end of the spine."""
        self.write(path, text)
        self.write("aioloop.h", GOOD["aioloop.h"] + '#include "%s"\n' % path)

    def refuses_new(self, path, text, *expected):
        self.add(path, text)
        self.refuses(path, text, *("src/%s:%s" % (path, part) for part in expected))

    def accepts_new(self, path, text):
        self.add(path, text)
        self.make()


class Output(TreeTest):

    def test_files_stand_in_the_order_of_the_spine_each_once_under_its_mark(self):
        marks = re.findall(r"^/\* >> src/(.*) \*/$", self.make(), re.M)
        self.assertEqual(marks, [
            "aioloop.h", "api/config.h", "api/loop.h", "aioloop.h", "base/platform.h", "base/list.h",
            "aioloop.h", "io/queue.c", "aioloop.h", "core/loop.c", "aioloop.h"])

    def test_first_line_says_that_it_is_generated(self):
        first = self.make().split("\n")[0]
        self.assertIn("Generated from src/ by tools/amalgamate.py", first)
        self.assertIn("Do not edit", first)

    def test_quoted_includes_go_and_system_includes_and_conditionals_stay(self):
        header = self.make()
        code = header.replace('#include "api/in_a_comment.h"', "")
        self.assertNotIn('#include "', code)
        self.assertIn("#include <string.h>", header)
        self.assertIn("#if AIOL_HAVE_QUEUE\n", header)
        self.assertIn('/*\n#include "api/in_a_comment.h"\n*/', header)

    def test_include_with_a_comment_over_two_lines_goes_whole(self):
        self.write("core/loop.c", GOOD["core/loop.c"].replace(
            '#include "base/list.h"', '#include "base/list.h" /* first\n second */'))
        self.assertNotIn("second", self.make())

    def test_blank_lines_do_not_run_and_the_end_is_one_newline(self):
        self.write("aioloop.h", GOOD["aioloop.h"] + "\n\n\n")
        header = self.make()
        self.assertNotIn("\n\n\n", header)
        self.assertTrue(header.endswith("#endif\n"))

    def test_line_ends_are_lf(self):
        expected = self.make()
        for path, text in GOOD.items():
            self.write(path, text.replace("\n", "\r\n"))
        self.assertEqual(self.make(), expected)

    def test_output_depends_on_nothing_but_the_tree(self):
        first = self.make()
        elsewhere = os.path.join(self.root, "elsewhere")
        shutil.copytree(os.path.join(self.root, "src"), os.path.join(elsewhere, "sources"))
        tool = os.path.join(ROOT, "tools", "amalgamate.py")
        subprocess.run([sys.executable, tool, "--src", "sources", "--output", "copy.h"], cwd=elsewhere,
                       check=True, stdout=subprocess.DEVNULL)
        with open(os.path.join(elsewhere, "copy.h"), "rb") as file:
            self.assertEqual(file.read().decode("utf-8"), first)

    def test_header_and_split_form_compile_and_run(self):
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            self.skipTest("no C compiler")
        self.make()
        user = os.path.join(self.root, "user")      # not beside the header, which "aioloop.h" would find
        os.mkdir(user)
        program = os.path.join(user, "program")
        with open(os.path.join(user, "main.c"), "w") as file:
            file.write(USER)
        for folder in (self.root, os.path.join(self.root, "src")):
            subprocess.run([compiler, "-Wall", "-Werror", "-I", folder, "main.c", "-o", program], cwd=user, check=True)
            self.assertEqual(subprocess.run([program]).returncode, 0)


class Writing(TreeTest):

    def test_unchanged_header_is_not_touched(self):
        self.make()
        os.utime(self.output, (1, 1))
        self.make()
        self.assertEqual(os.stat(self.output).st_mtime, 1)

    def test_changed_header_is_replaced_and_nothing_is_left_beside(self):
        self.make()
        self.write("base/list.h", GOOD["base/list.h"] + "/* new */\n")
        self.assertIn("/* new */", self.make())
        self.assertEqual(sorted(os.listdir(self.root)), ["aioloop.h", "src"])

    def test_check_passes_when_up_to_date(self):
        self.make()
        self.assertEqual(self.run_tool("--check")[0], 0)

    def test_check_of_a_stale_header_says_the_remedy_and_writes_nothing(self):
        before = self.make()
        self.write("base/list.h", GOOD["base/list.h"] + "/* new */\n")
        code, printed = self.run_tool("--check")
        self.assertEqual(code, 1)
        self.assertIn("run: make header", printed)
        self.assertEqual(self.header(), before)

    def test_check_of_a_missing_header_fails_and_writes_nothing(self):
        code, printed = self.run_tool("--check")
        self.assertEqual(code, 1)
        self.assertIn("run: make header", printed)
        self.assertFalse(os.path.exists(self.output))

    def test_check_of_a_header_with_other_line_ends_fails(self):
        header = self.make()
        with open(self.output, "wb") as file:
            file.write(header.replace("\n", "\r\n").encode())
        self.assertEqual(self.run_tool("--check")[0], 1)

    def test_all_errors_are_listed_in_order(self):
        self.write("io/queue.c", "int queue;\n#define MIN(a, b) 0\n")
        self.refuses("base/list.h", "int list;\n",
                     "src/base/list.h:1: list stands", "src/io/queue.c:1: queue stands",
                     "src/io/queue.c:2: the macro MIN")


class Includes(TreeTest):

    def test_of_a_file_below(self):
        self.refuses("base/list.h", '\n#include "core/loop.c"\n',
                     'src/base/list.h:2: "core/loop.c" stands below this file in the spine; move')

    def test_of_itself(self):
        self.refuses("base/list.h", '#include "base/list.h"\n', "src/base/list.h:1: the file includes itself; remove")

    def test_of_the_spine(self):
        self.refuses("core/loop.c", '#include "aioloop.h"\n',
                     "src/core/loop.c:1: the spine includes this file; include")

    def test_of_no_file(self):
        self.refuses("core/loop.c", '#include "core/task.h"\n', "does not exist under src/; correct")

    def test_by_a_path_not_from_src(self):
        self.refuses("io/queue.c", '#include "../base/list.h"\n#include "./queue.c"\n',
                     '"../base/list.h" is not a path from src/; write "base/list.h"', 'write "io/queue.c"')

    def test_of_a_file_the_spine_does_not_reach(self):
        self.write("base/heap.h", "")
        self.refuses("io/queue.c", '#include "base/heap.h"\n',
                     'src/base/heap.h:1: the spine does not reach this file; add #include "base/heap.h"',
                     'src/io/queue.c:1: "base/heap.h" is not in the spine; add it to src/aioloop.h')

    def test_missing_in_the_spine(self):
        self.refuses("aioloop.h", GOOD["aioloop.h"] + '#include "base/heap.h"\n',
                     'src/aioloop.h:17: "base/heap.h" does not exist under src/; correct')

    def test_twice_in_the_spine(self):
        # The second would be empty in the header, and its #if may be the one that holds.
        self.refuses("aioloop.h", GOOD["aioloop.h"] + '#if AIOL_B\n#include "io/queue.c"\n#endif\n',
                     'src/aioloop.h:18: "io/queue.c" stands in line 13 already; include it once')

    def test_no_spine(self):
        os.remove(os.path.join(self.root, "src", "aioloop.h"))
        code, printed = self.run_tool()
        self.assertEqual(code, 1)
        self.assertIn("src/aioloop.h:1: the file does not exist; ", printed)


class Reached(TreeTest):

    def test_every_c_and_h_file(self):
        self.write("core/task.c", "")
        self.refuses("high/queue.h", "", "src/core/task.c:1: the spine does not reach", "src/high/queue.h:1: the spine")

    def test_include_in_a_comment_of_the_spine_does_not_count(self):
        self.write("core/task.c", "")
        self.refuses("aioloop.h", GOOD["aioloop.h"] + '/*\n#include "core/task.c"\n*/\n',
                     "src/core/task.c:1: the spine")

    def test_other_files_are_ignored(self):
        self.write("core/notes.txt", "")
        self.write("core/.#loop.c", "")
        self.make()


class Names(TreeTest):

    def test_without_prefix(self):
        self.refuses_new(
            "io/names.c",
            "#define MIN(a, b) ((a) < (b) ? (a) : (b))\n"
            "  # undef MIN\n"
            "int counter;\n"
            "static size_t queue_sizes[4] = { 1, 2 }, aiol_ok, more;\n"
            "typedef long ticks;\n"
            "typedef int (*visitor)(int a, void *arg);\n"
            "struct node { int value; struct inner { int x; } in; };\n"
            "enum state { AIOL_A, STATE_B = 3,\n"
            "  STATE_C };\n"
            "static const struct aiol_x *\n"
            "find(struct aiol_x *from,\n"
            "     int (*match)(int)) {\n"
            "    int local = 0; struct local_tag { int x; } y;\n"
            "    return 0;\n"
            "}\n"
            "AIOLOOP_API aioloop_time now(aioloop *loop) AIOL_UNUSED_RESULT;\n"
            "typedef struct { int x; } anonymous;\n"
            "extern \"C\" {\n"
            "void (*signal_handler(int n))(int);\n"
            "}\n"
            "#if AIOL_A\n"
            "static int first(int a) {\n"
            "#else\n"
            "static int second(int a, int b) {\n"
            "#endif\n"
            "    return a; }\n"
            "static AIOL_THREAD_LOCAL aiol_list *last;\n"
            "typedef BOOL (WINAPI *connect_ex)(SOCKET s);\n"
            "typedef int AIOL_CALL (*callback)(int a);\n"
            "static void aiol_f(int a) {\n"
            "#if AIOL_A\n"
            "    if (a) {\n"
            "#else\n"
            "    if (!a) {\n"
            "#endif\n"
            "    } }\n"
            "int after;\n",
            "1: the macro MIN has no prefix; call it AIOL_MIN", "2: the macro MIN",
            "3: counter stands at file scope without a prefix; call it aiol_counter", "4: more", "4: queue_sizes",
            "5: ticks", "6: visitor", "7: inner", "7: node", "8: STATE_B stands", "8: state ", "9: STATE_C", "11: find",
            "16: now", "17: anonymous", "19: signal_handler", "22: first", "24: second", "27: last", "28: connect_ex",
            "29: callback", "37: after")

    def test_ordinary_c_raises_no_alarm(self):
        self.accepts_new("io/names.c", ORDINARY_C)

    def test_ordinary_c_does_not_hide_what_comes_after(self):
        line = ORDINARY_C.count("\n") + 1
        self.refuses_new("io/names.c", ORDINARY_C + "int after;\n", "%d: after stands at file scope" % line)

    def test_what_is_not_ours_is_excepted_with_a_reason(self):
        for name, reason in amalgamate.FOREIGN.items():
            self.assertGreater(len(reason), 10, name)


class Platform(TreeTest):

    def test_conditionals_above_io(self):
        text = "#if defined(__linux__) \\\n    || AIOL_HAVE_EPOLL\n#elif AIOL_OS_POSIX\n#endif\n#ifdef _WIN32\n#endif\n"
        for path in ("core/a.c", "net/a.c", "high/a.c"):
            with self.subTest(path):
                self.refuses_new(path, text,
                                 "1: #if depends on AIOL_HAVE_EPOLL; put the difference behind one function",
                                 "1: #if depends on __linux__", "3: #elif depends on AIOL_OS_POSIX",
                                 "5: #ifdef depends on _WIN32")
                os.remove(os.path.join(self.root, "src", path))

    def test_conditionals_in_the_api(self):
        self.refuses_new("api/a.h", "#ifndef _MSC_VER\n#endif\n", "1: #ifndef depends on _MSC_VER; put the difference "
                         "behind a macro of src/api/config.h")

    def test_conditionals_that_are_allowed(self):
        self.accepts_new("io/a.c", "#ifdef __linux__\n#endif\n")
        os.remove(os.path.join(self.root, "src", "io", "a.c"))
        self.accepts_new("core/a.c", "#if AIOLOOP_USE_TLS && defined(__cplusplus) /* _WIN32 */\n#endif\n")

    def test_system_headers(self):
        self.refuses_new("sys/a.c", "#include <string.h>\n#include <errno.h>\n",
                         "2: <errno.h> may not be included here; include it in src/base/platform.h")

    def test_system_headers_in_the_api(self):
        self.refuses_new("api/a.h", "#include <stdbool.h>\n#include <stdarg.h>\n",
                         "2: <stdarg.h> may not be included here; declare without it: api/ has only stdbool.h")

    def test_mbedtls_belongs_to_one_file(self):
        text = "#include <mbedtls/ssl.h>\n#include <psa/crypto.h>\n"
        self.accepts_new("tls/mbedtls.c", text)
        os.remove(self.output)
        os.remove(os.path.join(self.root, "src", "tls", "mbedtls.c"))
        self.refuses_new("net/stream.c", text, "1: <mbedtls/ssl.h> may not", "2: <psa/crypto.h> may not")


if __name__ == "__main__":
    unittest.main()
