// The JavaScript client against a running emulator: each call, and each exception by what causes it.
// Needs ORKESTR_BASE_URL and ORKESTR_API_KEY; test_js.py gives them and runs this with node --test.

import assert from "node:assert/strict";
import { test } from "node:test";

import * as orkestr from "./orkestr.mjs";

const { Sandbox } = orkestr;
const template = "tiny";

// Skips by itself until the server has the route.
// Pauses it, or skips the test where nothing can freeze a sandbox.
async function pause(t, sbx) {
	try {
		return await sbx.pause();
	} catch (error) {
		if (error instanceof orkestr.OrkestrError && error.status === 501)
			return void t.skip(error.message);
		throw error;
	}
}

test("withTemp terminates, also after a throw, and passes the value on", async () => {
	let seen;
	const value = await Sandbox.withTemp({ template }, async (sbx) => {
		seen = sbx;
		assert.equal(sbx.status, "running");
		return (await sbx.exec("echo hi")).stdout;
	});
	assert.equal(value, "hi\n");
	assert.equal(seen.status, "terminated");
	await assert.rejects(Sandbox.withTemp({ template }, async (sbx) => {
		seen = sbx;
		throw new RangeError("mine");
	}), RangeError);
	assert.equal(seen.status, "terminated");
});

test("create passes everything on; results are camelCase", async () => {
	const sbx = await Sandbox.create({
		template, size: "small", network: "off", timeoutSeconds: 99, env: { some_name: "v" },
		metadata: { agentRun: "r_1" }, region: "hel1", apiKey: process.env.ORKESTR_API_KEY,
	});
	try {
		assert.match(sbx.id, /^sbx_[0-9A-Z]{26}$/);
		assert.ok(sbx.createdAt instanceof Date && Math.abs(Date.now() - sbx.createdAt) < 60_000);
		const result = await sbx.exec("echo $some_name; echo err >&2; exit 4", { timeoutSeconds: 30 });
		assert.deepEqual({ ...result, durationMs: 0 }, { stdout: "v\n", stderr: "err\n", exitCode: 4, durationMs: 0 });
		assert.ok(Number.isInteger(result.durationMs));
	} finally {
		await sbx.terminate();
		await sbx.terminate();
	}
});

test("files", async () => {
	await Sandbox.withTemp({ template }, async (sbx) => {
		const bytes = Uint8Array.from({ length: 100_000 }, (_, i) => i % 256);
		await sbx.files.writeBytes("/workspace/a/blob.bin", bytes);
		await sbx.files.write("/workspace/ü ✓.txt", "grüße\n");
		assert.deepEqual(await sbx.files.readBytes("/workspace/a/blob.bin"), bytes);
		assert.equal(await sbx.files.read("/workspace/ü ✓.txt"), "grüße\n");
		const entries = await sbx.files.list("/workspace");
		assert.deepEqual(entries.map((e) => [e.name, e.isDir]), [["a", true], ["ü ✓.txt", false]]);
		await sbx.files.delete("/workspace/ü ✓.txt");
		await assert.rejects(sbx.files.read("/workspace/ü ✓.txt"), { name: "OrkestrError", code: "file_not_found", status: 404 });
	});
});

test("list goes through all pages", async () => {
	const made = new Set();
	for (let n = 0; n < 53; n++) {
		const sbx = await Sandbox.create({ template });
		made.add(sbx.id);
		await sbx.terminate();
	}
	const listed = [];
	for await (const sbx of Sandbox.list())
		listed.push(sbx.id);
	assert.equal(new Set(listed).size, listed.length);
	assert.ok([...made].every((id) => listed.includes(id)));
	for await (const sbx of Sandbox.list({ status: "running" }))
		assert.fail(`${sbx.id} still runs`);
});

test("errors by their causes", async (t) => {
	const cases = [
		["AuthError", 401, () => Sandbox.create({ template, apiKey: "not-a-key" })],
		["PlanLimitError", 402, () => Sandbox.create({ template: "tiny", size: "large", apiKey: process.env.ORKESTR_TEST_KEY_FREE })],
		["OrkestrError", 422, () => Sandbox.create({ template, timeoutSeconds: 1 })],
		["OrkestrError", 404, () => Sandbox.create({ template: "no-such" })],
	];
	for (const [name, status, run] of cases) {
		await t.test(`${name} ${status}`, () => assert.rejects(run(), (error) => {
			assert.ok(error instanceof orkestr[name] && error instanceof orkestr.OrkestrError && error instanceof Error);
			assert.equal(error.name, name);
			assert.equal(error.status, status);
			assert.ok(error.message && error.requestId);
			return true;
		}));
	}
	await t.test("ExecTimeout with the output so far", () => Sandbox.withTemp({ template }, (sbx) =>
		assert.rejects(sbx.exec("echo so far; sleep 20", { timeoutSeconds: 1 }), (error) => {
			assert.ok(error instanceof orkestr.ExecTimeout);
			assert.equal(error.stdout, "so far\n");
			return true;
		})));
	await t.test("SandboxNotReady and SandboxNotFound", async () => {
		const sbx = await Sandbox.create({ template });
		await sbx.terminate();
		await assert.rejects(sbx.exec("true"), orkestr.SandboxNotReady);
		await assert.rejects(sbx.files.read("/etc/passwd"), orkestr.SandboxNotReady);
		sbx.id = "sbx_01HXYZ00000000000000000000";
		await assert.rejects(sbx.exec("true"), orkestr.SandboxNotFound);
	});
	await t.test("no key, no server", async () => {
		const key = process.env.ORKESTR_API_KEY, url = process.env.ORKESTR_BASE_URL;
		try {
			delete process.env.ORKESTR_API_KEY;
			await assert.rejects(Sandbox.create({ template }), orkestr.AuthError);
			process.env.ORKESTR_API_KEY = key;
			process.env.ORKESTR_BASE_URL = "http://127.0.0.1:1";
			await assert.rejects(Sandbox.create({ template }), { name: "OrkestrError", status: null });
		} finally {
			process.env.ORKESTR_API_KEY = key;
			process.env.ORKESTR_BASE_URL = url;
		}
	});
});

test("AuthError, PlanLimitError and RateLimitError by what causes them", async (t) => {
	const emulator = async (method, path, body, key = process.env.ORKESTR_API_KEY) => {
		const response = await fetch(`${process.env.ORKESTR_BASE_URL}/_emulator/${path}`, {
			method, headers: { authorization: `Bearer ${key}`, "content-type": "application/json" }, body: JSON.stringify(body),
		});
		assert.ok(response.ok, `${path}: ${response.status}`);
		return response.json();
	};
	const newKey = (fields) => emulator("POST", "keys", fields);
	const fails = (key, name, status, code, fields = {}) => assert.rejects(
		Sandbox.create({ template, apiKey: key.key, ...fields }), (error) => {
			assert.ok(error instanceof orkestr[name], error);
			assert.deepEqual([error.name, error.status, error.code], [name, status, code]);
			return true;
		});
	await t.test("an expired key", async () =>
		fails(await newKey({ expires_at: "2020-01-01T00:00:00Z" }), "AuthError", 401, "key_expired"));
	await t.test("a revoked key", async () => {
		const key = await newKey({});
		await emulator("DELETE", `keys/${key.id}`);
		await fails(key, "AuthError", 401, "unauthorized");
	});
	await t.test("a read-only key", async () => fails(await newKey({ scopes: "read" }), "AuthError", 403, "insufficient_scope"));
	await t.test("another account's key", async () => {
		const [mine, other] = [await newKey({}), await newKey({})];
		const sbx = await Sandbox.create({ template, apiKey: mine.key });
		try {
			await assert.rejects(Sandbox.resume(sbx.id, { apiKey: other.key }), orkestr.SandboxNotFound);
		} finally {
			await sbx.terminate();
		}
	});
	await t.test("what the plan does not allow", async () => {
		const key = await newKey({ plan: "free" });
		await fails(key, "PlanLimitError", 402, "size_not_allowed", { size: "medium" });
		await fails(key, "PlanLimitError", 402, "network_not_allowed", { network: "open" });
		const sbx = await Sandbox.create({ template, apiKey: key.key });
		try {
			await fails(key, "PlanLimitError", 402, "concurrent_limit");
		} finally {
			await sbx.terminate();
		}
		await emulator("PUT", "usage", { gb_hours: 10 }, key.key);
		await fails(key, "PlanLimitError", 402, "usage_exhausted");
	});
	await t.test("one snapshot too many", async (t) => {
		const key = await newKey({ plan: "free" });
		const paused = await Sandbox.create({ template, apiKey: key.key });
		if (!await pause(t, paused))
			return await paused.terminate();
		const second = await Sandbox.create({ template, apiKey: key.key });
		try {
			await assert.rejects(second.pause(), orkestr.SnapshotCapReached);
		} finally {
			await second.terminate();
			await paused.terminate();
		}
	});
	await t.test("too many requests", async () => {
		const key = await newKey({ rate_limit: "2/7200" });
		await Sandbox.limits({ apiKey: key.key });
		await Sandbox.limits({ apiKey: key.key });
		await assert.rejects(Sandbox.limits({ apiKey: key.key }), (error) => {
			assert.ok(error instanceof orkestr.RateLimitError);
			assert.ok(error.retryAfter > 3500 && error.retryAfter <= 3600, String(error.retryAfter));
			return true;
		});
	});
});

test("the classes are the README's", () => {
	for (const name of ["AuthError", "RateLimitError", "PlanLimitError", "SnapshotCapReached", "SandboxNotFound",
		"SandboxNotReady", "ExecTimeout", "NetworkPolicyError"]) {
		const error = new orkestr[name]("m", { status: 1, code: "c", requestId: "r", body: { blocked: [1] } });
		assert.ok(error instanceof orkestr.OrkestrError);
		assert.deepEqual([error.name, error.message, error.code], [name, "m", "c"]);
	}
});

test("execStream", async (t) => {
	await Sandbox.withTemp({ template }, async (sbx) => {
		const chunks = [];
		for await (const chunk of sbx.execStream("echo ✓; echo err >&2; exit 3"))
			chunks.push(chunk);
		const text = (stream) => chunks.filter((c) => c.stream === stream).map((c) => c.data).join("");
		assert.deepEqual([text("stdout"), text("stderr")], ["✓\n", "err\n"]);
		assert.equal(chunks.filter((c) => c.isFinal).length, 1);
		assert.equal(chunks.at(-1).exitCode, 3);
	});
});

test("limits", async () => {
	const limits = await Sandbox.limits();
	assert.equal(limits.plan, "team");
	assert.deepEqual(limits.allowedSizes, ["small", "medium", "large"]);
	assert.equal(limits.maxConcurrent, 15);
	assert.ok(limits.usageResetsAt instanceof Date && limits.usageResetsAt > new Date());
	assert.deepEqual(limits.sizes[0], { size: "small", cpu: 0.5, memoryMb: 512, allowed: true });
	assert.ok(limits.usageGbHoursUsed >= 0 && limits.usageGbHoursUsed < limits.usageGbHoursIncluded);
});

test("metrics", async () => {
	await Sandbox.withTemp({ template }, async (sbx) => {
		const metrics = await sbx.metrics({ since: new Date(0) });
		assert.equal(metrics.sandboxStatus, "running");
		assert.ok(metrics.lifetime.cpuSeconds >= 0);
		assert.ok(metrics.cpu.usagePercent >= 0 && metrics.cpu.cores > 0 && metrics.memory.usageBytes > 0);
		assert.ok(metrics.samples.every((s) => s.t instanceof Date && s.memBytes >= 0));
	});
});

test("pause and resume", async (t) => {
	await Sandbox.withTemp({ template }, async (sbx) => {
		const id = await pause(t, sbx);
		if (!id)
			return;
		assert.equal(id, sbx.id);
		assert.equal(sbx.status, "paused");
		const back = await Sandbox.resume(id);
		assert.equal(back.status, "running");
	});
});
