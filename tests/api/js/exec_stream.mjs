// Streams execs with Node's fetch, for test_exec_clients.py: prints what came as one JSON object.
//   node exec_stream.mjs BASE_URL KEY SANDBOX COMMAND

const [base, key, sandbox, command] = process.argv.slice(2);
const execs = `${base}/v1/sandboxes/${sandbox}/exec`;
const headers = { Authorization: `Bearer ${key}`, "Content-Type": "application/json" };

async function* eventsOf(response) {
	if (!response.ok)
		throw new Error(`${response.status} ${await response.text()}`);
	let text = "";
	for await (const piece of response.body.pipeThrough(new TextDecoderStream())) {
		text += piece;
		for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2))
			for (const line of text.slice(0, end).split("\n"))
				if (line.startsWith("data: "))
					yield JSON.parse(line.slice(6));
	}
}

const start = (body, signal) => fetch(execs, { method: "POST", headers, body: JSON.stringify({ stream: true, ...body }), signal });
const post = (id, what, body) => fetch(`${execs}/${id}/${what}`, { method: "POST", headers, body: JSON.stringify(body) });

const result = { streamed: [], resumed: [], terminal: "" };
let begun;
for await (const event of eventsOf(await start({ command }))) {
	begun ??= performance.now();
	result.streamed.push(event);
}
result.streamed_ms = performance.now() - begun;

// Leave after a few chunks, come back for a few more, until the end.
const lines = "i=1; while [ $i -le 300 ]; do echo line $i; i=$((i+1)); [ $((i % 20)) = 0 ] && sleep 0.02; done; exit 4";
let leave = new AbortController();
let response = await start({ command: lines, detach_on_disconnect: true }, leave.signal);
const id = response.headers.get("x-exec-id");
for (;;) {
	let n = 0;
	try {
		for await (const event of eventsOf(response)) {
			result.resumed.push(event);
			if (++n === 4)
				break;
		}
	} finally {
		leave.abort();
	}
	const last = result.resumed.at(-1);
	if (last.is_final)
		break;
	leave = new AbortController();
	response = await fetch(`${execs}/${id}/stream`, { headers: { ...headers, "Last-Event-ID": String(last.seq) }, signal: leave.signal });
}

response = await start({ command: ["sh"], pty: { rows: 24, cols: 80 }, env: { PS1: "$ " } });
const shell = response.headers.get("x-exec-id");
const keys = ["echo $((6*7))\r", "exit 9\r"];
for await (const event of eventsOf(response)) {
	result.terminal += event.data;
	if (event.is_final)
		result.terminal_exit = event.exit_code;
	else if (keys.length && result.terminal.endsWith("$ "))
		if (!(await post(shell, "stdin", { data: keys.shift() })).ok)
			throw new Error("stdin was refused");
}

console.log(JSON.stringify(result));
