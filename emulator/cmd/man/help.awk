# From a help text to man(7). Known by their form: usage lines; lists of options and commands, whose text starts
# behind two or more spaces and goes on in lines that are indented further; examples, which stay as they are; headings
# that end in a colon; paragraphs.

function roff(s) {
	gsub(/\\/, "\\e", s)
	gsub(/-/, "\\-", s)
	return s ~ /^[.']/ ? "\\&" s : s
}

function bold(s) {
	return "\\fB" roff(s) "\\fR"
}

function end_plain() {
	if (plain)
		print ".fi\n.RE"
	plain = 0
}

function text_from(what, s) {
	end_plain()
	usage = blank = 0
	listed = what == "item"
	examples = what == "examples"
	if (s != "")
		print s
}

BEGIN { blank = 1 }

/^$/ {
	text_from("nothing", ".PP")
	blank = 1
	next
}

/^Usage: / || (usage && /^       orkestr-emulator /) {
	sub(/^(Usage:)? +/, "")
	text_from("usage", (usage ? ".br\n" : "") bold($0))
	usage = 1
	next
}

/^ *(-[a-zA-Z]|--[a-z])/ || /^ ? ?[a-z][a-z-]*( [][A-Z|.:]+)*  +[^ ]/ {
	sub(/^ +/, "")
	spec = $0
	rest = ""
	if (match($0, /  +/)) {
		spec = substr($0, 1, RSTART - 1)
		rest = "\n" roff(substr($0, RSTART + RLENGTH))
	}
	if (spec !~ /^orkestr-emulator /) {
		text_from("item", ".TP\n" bold(spec) rest)
		next
	}
}

listed && /^ / {
	sub(/^ +/, "")
	print roff($0)
	next
}

# An example, or a line of one.
/^  / {
	if (!plain)
		print ".RS 2\n.nf"
	plain = 1
	print roff(substr($0, 3))
	next
}

blank && /^[^ ].*:$/ {
	text_from(/^Example/ ? "examples" : "heading", ".PP\n" bold($0))
	next
}

{ text_from("paragraph", roff($0)) }

END { end_plain() }
