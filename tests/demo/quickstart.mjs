// The JavaScript README's quick start and API walk, shown call by call. Each step is a function whose
// source is printed and which is then run, and a check of what it returned; the first that fails ends the
// walk with exit code 1. Needs ORKESTR_BASE_URL and ORKESTR_API_KEY.

import { OrkestrError, Sandbox, SandboxNotFound } from "../api/js/orkestr.mjs";

const [bold, dim, cyan, green, red, off] = process.stdout.isTTY
	? ["\x1b[1m", "\x1b[2m", "\x1b[36m", "\x1b[32m", "\x1b[31m", "\x1b[0m"]
	: ["", "", "", "", "", ""];

// What a server that lacks a route, or a feature behind one, answers.
const notThere = (error) =>
	error instanceof OrkestrError && !(error instanceof SandboxNotFound) && [404, 405, 501].includes(error.status);

/** The body of an arrow function as written, without its own indentation. */
function sourceOf(run) {
	const lines = run.toString().split("\n").slice(1, -1);
	const indent = Math.min(...lines.filter((l) => l.trim()).map((l) => l.match(/^\t*/)[0].length));
	return lines.map((l) => l.slice(indent).replace(/\t/g, "  "));
}

let shown = "";
const say = console.log;
function log(...values) {
	const text = values.map((v) => (typeof v === "string" ? v : JSON.stringify(v))).join(" ");
	shown += `${text}\n`;
	say(text.replace(/\n$/, "").replace(/^/gm, "    "));
}

async function step(run, check, { optional = false } = {}) {
	for (const line of sourceOf(run))
		say(`${cyan}> ${line}${off}`);
	shown = "";
	const start = performance.now();
	console.log = log;
	let value;
	try {
		value = await run();
	} catch (error) {
		if (!optional || !notThere(error))
			throw error;
		say(`${dim}    not in this version of the emulator: ${error.message} (${error.status})${off}\n`);
		return;
	} finally {
		console.log = say;
	}
	const took = performance.now() - start;
	if (!check(value))
		throw new Error(`this does not hold: ${check}`);
	say(`${green}    ok${off}${dim}, ${took.toFixed(0)} ms${off}\n`);
}

let sbx;

async function quickStart() {
	await step(async () => {
		await Sandbox.withTemp({ template: "python-3.12" }, async (sbx) => {
			await sbx.files.write("/workspace/main.py", "print(sum(range(1_000_000)))");
			const result = await sbx.exec("python /workspace/main.py");
			console.log(result.stdout);     // 499999500000
			console.log(result.durationMs); // ~120
		});
	}, () => shown.startsWith("499999500000\n"));
}

async function walk() {
	await step(async () => {
		sbx = await Sandbox.create({
			template: "node-22",
			size: "small",
			network: "off",
			timeoutSeconds: 600,
			env: { GREETING: "hello from the sandbox" },
			metadata: { agentRun: "r_123" },
			region: "fsn1",
		});
		console.log(sbx.id, sbx.status);
	}, () => sbx.id.startsWith("sbx_") && sbx.status === "running");
	await step(async () => {
		const limits = await Sandbox.limits();
		console.log(limits.plan, limits.allowedSizes, limits.maxConcurrent);
	}, () => shown.length > 0, { optional: true });
	await step(async () => {
		const result = await sbx.exec(`echo $GREETING; node -p '"Node " + process.version'`);
		console.log(result.exitCode, result.stdout);
	}, () => /^0 hello from the sandbox\nNode v22\./.test(shown));
	await step(async () => {
		await sbx.files.write("/workspace/data.json", '{"x": 1}');
		await sbx.files.writeBytes("/workspace/blob.bin", new Uint8Array([0, 1, 2]));
		console.log(await sbx.files.read("/workspace/data.json"));
		console.log([...await sbx.files.readBytes("/workspace/blob.bin")]);
		for (const entry of await sbx.files.list("/workspace"))
			console.log(entry.name, entry.isDir, entry.size);
		await sbx.files.delete("/workspace/data.json");
	}, () => shown === '{"x": 1}\n[0,1,2]\nblob.bin false 3\ndata.json false 8\n');
	await step(async () => {
		for await (const chunk of sbx.execStream("for i in 0 1 2; do echo step $i; sleep 0.2; done"))
			if (chunk.data)
				console.log(chunk.data);
	}, () => shown.includes("step 2"), { optional: true });
	await step(async () => {
		const m = await sbx.metrics();
		console.log(m.cpu, m.memory);
	}, () => shown.length > 0, { optional: true });
	await step(async () => {
		for await (const s of Sandbox.list({ status: "running" }))
			console.log(s.id, s.template, s.createdAt);
		await sbx.terminate();
		console.log(sbx.status);
	}, () => shown.includes(sbx.id) && shown.endsWith("terminated\n"));
}

try {
	say(`${bold}-- README, Quick start${off}`);
	await quickStart();
	say(`${bold}-- README, API${off}`);
	await walk();
} catch (error) {
	console.error(`${red}    FAILED: ${error.name}: ${error.message}${off}`);
	process.exitCode = 1;
	await sbx?.terminate().catch(() => {}); // nothing more can be done about it here
}
