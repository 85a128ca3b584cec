# SPDX-License-Identifier: GPL-2.0
#
# The examples in the documentation comments of the given Rust files, each as a function, for Kbuild
# to compile.  As in rustdoc, a block is an example unless its fence names something else than
# Rust, and a line that begins with "# " is compiled and not shown.

BEGIN {
	print "//! Made by tools/examples.awk."
	print "#![allow(dead_code, unreachable_code, unused, missing_docs, clippy::all)]"
	print "const __LOG_PREFIX: &[u8] = b\"examples\\0\";"
}

FNR == 1 {
	if (inside || other)
		fail("a block does not end")
}

function fail(why) {
	print last ": " why >"/dev/stderr"
	failed = 1
	exit 1
}

{ last = FILENAME ":" FNR }

!/^[ \t]*\/\/[\/!]/ {
	if (inside || other)
		fail("a block does not end")
	next
}

{ sub(/^[ \t]*\/\/[\/!] ?/, "") }

/^ *```/ {
	if (inside) {
		print "}"
		inside = 0
	} else if (other) {
		other = 0
	} else if ($0 ~ /^ *``` *(rust)?$/) {
		inside = 1
		print "\n// " last
		print "fn example_" ++count "() {"
	} else {
		other = 1
	}
	next
}

inside { sub(/^ *# ?/, ""); print }

END {
	if (!failed)
		print "\n// " count " examples"
}
