// Each exception of the JavaScript README, raised by a fault rule of the emulator's, for a key of this file's own.
// Needs ORKESTR_BASE_URL; test_js.py gives it and runs this with node --test.

import assert from "node:assert/strict";
import { test } from "node:test";

import * as orkestr from "./orkestr.mjs";

const { Sandbox } = orkestr;
const template = "tiny";
const apiKey = "ork_key_js_faults";

async function control(method, path, body) {
	const response = await fetch(`${process.env.ORKESTR_BASE_URL}/_emulator/${path}`, {
		method,
		headers: { Authorization: `Bearer ${apiKey}`, "Content-Type": "application/json" },
		body: body && JSON.stringify(body),
	});
	assert.ok(response.ok, `${method} ${path}: ${response.status} ${await response.clone().text()}`);
	return response.status === 204 ? null : response.json();
}

const fault = (rule) => control("POST", "faults", { rule, key: apiKey });

const EXCEPTIONS = [
	["AuthError", "code=unauthorized", 401],
	["AuthError", "code=insufficient_scope", 403],
	["RateLimitError", "code=rate_limited; retry_after=3", 429],
	["PlanLimitError", "code=usage_exhausted", 402],
	["SnapshotCapReached", "code=snapshot_cap_reached", 402],
	["SandboxNotFound", "code=sandbox_not_found", 404],
	["SandboxNotReady", "code=sandbox_not_ready", 409],
	["ExecTimeout", "code=exec_timeout", 408],
	["NetworkPolicyError", "code=network_policy", 403],
	["OrkestrError", "disk=full", 507],
];

for (const [name, rule, status] of EXCEPTIONS)
	test(`${name} by "${rule}"`, async () => {
		await Sandbox.withTemp({ template, apiKey }, async (sbx) => {
			await fault(`route=POST /v1/sandboxes/*/exec; times=1; ${rule}`);
			await assert.rejects(sbx.exec("echo never"), (error) => {
				assert.equal(error.constructor, orkestr[name]);
				assert.equal(error.status, status);
				if (name === "RateLimitError")
					assert.equal(error.retryAfter, 3);
				return true;
			});
			assert.equal((await sbx.exec("echo again")).stdout, "again\n");
		});
		await control("DELETE", `faults?key=${apiKey}`);
	});

test("a reset, before and after", async () => {
	await Sandbox.withTemp({ template, apiKey }, async (sbx) => {
		for (const [where, done] of [["before", false], ["after", true]]) {
			await fault(`route=POST /v1/sandboxes/*/exec; times=1; reset=${where}`);
			await assert.rejects(sbx.exec(`echo > /workspace/${where}`), orkestr.OrkestrError);
			assert.equal((await sbx.exec(`test -e /workspace/${where}`)).exitCode === 0, done, where);
		}
	});
	await control("DELETE", `faults?key=${apiKey}`);
});

test("a stream that is cut throws; one without its last chunk ends", async () => {
	await Sandbox.withTemp({ template, apiKey }, async (sbx) => {
		const chunks = [];
		await fault("route=POST /v1/sandboxes/*/exec; times=1; cut=1");
		await assert.rejects(async () => {
			for await (const chunk of sbx.execStream("echo 1; sleep 0.2; echo 2; sleep 0.2"))
				chunks.push(chunk.data);
		});
		assert.deepEqual(chunks, ["1\n"]);
		await fault("route=POST /v1/sandboxes/*/exec; times=1; last_chunk=missing");
		for await (const chunk of sbx.execStream("echo 3"))
			chunks.push(chunk.data);
		assert.deepEqual(chunks, ["1\n", "3\n"]);
	});
	await control("DELETE", `faults?key=${apiKey}`);
});
