// A client for the orkestr sandbox API, shaped like the published JavaScript SDK and written from that
// SDK's README alone, so that code which uses the SDK can be tried against the emulator without it.
// No dependencies; Node 18+ or anything else with fetch.
//
//   export ORKESTR_API_KEY=ork_...
//   export ORKESTR_BASE_URL=http://127.0.0.1:4520      (default: https://api.orkestr.eu)

const DEFAULT_BASE_URL = "https://api.orkestr.eu";
const DEFAULT_EXEC_TIMEOUT = 60;

// --- errors ---------------------------------------------------------------------------------------

/** Any API-level error, and the base of the more exact ones. */
export class OrkestrError extends Error {
	/** @param {{status?: number, code?: string, requestId?: string, body?: object, cause?: unknown}} [about] */
	constructor(message, about = {}) {
		super(message, about.cause === undefined ? undefined : { cause: about.cause });
		this.name = this.constructor.name;
		this.status = about.status ?? null;
		this.code = about.code ?? null;
		this.requestId = about.requestId ?? null;
		this.body = about.body ?? {};
	}
}

/** Missing, invalid or expired API key, or a key without the scope. */
export class AuthError extends OrkestrError {}

/** The plan's rate limit was hit; retryAfter is in seconds, or null. */
export class RateLimitError extends OrkestrError {
	retryAfter = null;
}

/** The plan forbids it: size, concurrency, usage or snapshots. */
export class PlanLimitError extends OrkestrError {}

/** pause() beyond the number of snapshots the plan keeps. */
export class SnapshotCapReached extends PlanLimitError {}

/** There is no such sandbox, or it is another account's. */
export class SandboxNotFound extends OrkestrError {}

/** The sandbox is paused, terminated, or on its way there. */
export class SandboxNotReady extends OrkestrError {}

/** exec() exceeded timeoutSeconds. stdout and stderr hold what was written until then. */
export class ExecTimeout extends OrkestrError {
	get stdout() {
		return this.body.stdout ?? "";
	}
	get stderr() {
		return this.body.stderr ?? "";
	}
}

/** The command tried to reach what the network policy blocks. */
export class NetworkPolicyError extends OrkestrError {
	get blocked() {
		return this.body.blocked ?? [];
	}
}

function errorClass(status, code) {
	switch (status) {
	case 401: return AuthError;
	case 402: return code === "snapshot_cap_reached" ? SnapshotCapReached : PlanLimitError;
	case 403: return code === "network_policy" ? NetworkPolicyError : AuthError;
	case 404: return code === "sandbox_not_found" ? SandboxNotFound : OrkestrError;
	case 408: return ExecTimeout;
	case 409: return code === "sandbox_not_ready" ? SandboxNotReady : OrkestrError;
	case 429: return RateLimitError;
	default: return OrkestrError;
	}
}

// `detail` is a sentence, or FastAPI's list of what is wrong with which field.
function messageOf(detail) {
	if (Array.isArray(detail))
		return detail.map((d) => `${(d.loc ?? []).join(".")}: ${d.msg ?? "invalid"}`).join("; ");
	return typeof detail === "string" ? detail : "";
}

async function errorOf(response) {
	const text = await response.text();
	let body = {};
	try {
		body = JSON.parse(text) ?? {};
	} catch {
		body = { detail: text };
	}
	const code = body.code;
	const error = new (errorClass(response.status, code))(messageOf(body.detail) || `HTTP ${response.status}`, {
		status: response.status,
		code,
		requestId: response.headers.get("x-request-id") ?? undefined,
		body,
	});
	const retryAfter = Number.parseFloat(response.headers.get("retry-after") ?? "");
	if (error instanceof RateLimitError && Number.isFinite(retryAfter))
		error.retryAfter = retryAfter;
	return error;
}

// --- snake_case on the wire, camelCase here -------------------------------------------------------

const camel = (name) => name.replace(/_+([a-z0-9])/g, (_, letter) => letter.toUpperCase());

function camelKeys(value) {
	if (Array.isArray(value))
		return value.map(camelKeys);
	if (value === null || typeof value !== "object")
		return value;
	return Object.fromEntries(Object.entries(value).map(([key, inner]) => [camel(key), camelKeys(inner)]));
}

const dateOf = (value) => (value === null || value === undefined ? null : new Date(value));

// --- HTTP -----------------------------------------------------------------------------------------

class Transport {
	constructor({ apiKey, baseUrl } = {}) {
		const env = globalThis.process?.env ?? {};
		this.apiKey = apiKey ?? env.ORKESTR_API_KEY;
		if (!this.apiKey)
			throw new AuthError("no API key: pass apiKey or set ORKESTR_API_KEY");
		this.baseUrl = (baseUrl ?? (env.ORKESTR_BASE_URL || env.ORKESTR_API_URL || DEFAULT_BASE_URL)).replace(/\/+$/, "");
	}

	async send(method, path, { query, body, accept = "application/json", signal } = {}) {
		const search = query && Object.keys(query).length ? `?${new URLSearchParams(query)}` : "";
		const headers = { Authorization: `Bearer ${this.apiKey}`, Accept: accept };
		if (body !== undefined)
			headers["Content-Type"] = "application/json";
		let response;
		try {
			response = await fetch(this.baseUrl + path + search, {
				method, headers, signal,
				body: body === undefined ? undefined : JSON.stringify(body),
			});
		} catch (cause) {
			throw new OrkestrError(`${method} ${this.baseUrl}${path}: ${cause.cause?.message ?? cause.message}`, { cause });
		}
		if (!response.ok)
			throw await errorOf(response);
		return response;
	}

	async call(method, path, options) {
		const text = await (await this.send(method, path, options)).text();
		return text ? JSON.parse(text) : null;
	}

	/** Yields the JSON value of each Server-Sent Event as it arrives. */
	async *stream(path, body) {
		const gone = new AbortController();
		const response = await this.send("POST", path, { body, accept: "text/event-stream", signal: gone.signal });
		const decoder = new TextDecoder();
		let rest = "";
		let data = [];
		try {
			for await (const bytes of response.body) {
				const lines = (rest + decoder.decode(bytes, { stream: true })).split("\n");
				rest = lines.pop();
				for (const line of lines.map((l) => l.replace(/\r$/, ""))) {
					if (line.startsWith("data:")) {
						data.push(line.slice(5).replace(/^ /, ""));
					} else if (line === "" && data.length) {
						yield JSON.parse(data.join("\n"));
						data = [];
					}
				}
			}
		} finally {
			gone.abort(); // a reader that leaves the loop early ends the command
		}
	}
}

// --- base64 without Buffer, for runtimes that have none -------------------------------------------

function toBase64(bytes) {
	let text = "";
	for (let at = 0; at < bytes.length; at += 0x8000)
		text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
	return btoa(text);
}

function fromBase64(text) {
	return Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
}

// --- the SDK --------------------------------------------------------------------------------------

/** A sandbox's files, as `sbx.files`. */
export class Files {
	#transport;
	#path;

	constructor(transport, path) {
		this.#transport = transport;
		this.#path = path;
	}

	async write(path, content) {
		await this.writeBytes(path, new TextEncoder().encode(content));
	}

	async writeBytes(path, content) {
		await this.#transport.call("POST", this.#path, { body: { path, content: toBase64(content), encoding: "base64" } });
	}

	async read(path) {
		return new TextDecoder().decode(await this.readBytes(path));
	}

	async readBytes(path) {
		const answer = await this.#transport.call("GET", this.#path, { query: { path } });
		if (answer.is_dir)
			throw new OrkestrError(`${path} is a directory`, { code: "is_a_directory" });
		return fromBase64(answer.content);
	}

	async list(path) {
		const answer = await this.#transport.call("GET", this.#path, { query: { path } });
		if (!answer.is_dir)
			throw new OrkestrError(`${path} is not a directory`, { code: "not_a_directory" });
		return answer.entries.map((entry) => ({ name: entry.name, isDir: entry.is_dir, size: entry.size }));
	}

	async delete(path) {
		await this.#transport.call("DELETE", this.#path, { query: { path } });
	}
}

export class Sandbox {
	#transport;

	/** Not for callers: use Sandbox.create(). */
	constructor(transport, row) {
		this.#transport = transport;
		this.#take(row);
		this.files = new Files(transport, `${this.#path}/files`);
	}

	/**
	 * Starts a sandbox and resolves with it running.
	 * @param {{template: string, size?: "small"|"medium"|"large", network?: "off"|"restricted"|"open",
	 *          timeoutSeconds?: number, env?: Record<string, string>, metadata?: Record<string, string>,
	 *          region?: "fsn1"|"hel1", apiKey?: string}} options
	 */
	static async create(options) {
		const transport = new Transport(options);
		const { template, size, network, timeoutSeconds, env, metadata, region } = options;
		// JSON.stringify leaves out what is undefined; the names in env and metadata are the caller's own.
		const body = { template, size, network, timeout_seconds: timeoutSeconds, env, metadata, region };
		return new Sandbox(transport, await transport.call("POST", "/v1/sandboxes", { body }));
	}

	/** Creates a sandbox for the time of the callback; terminated when it returns, also when it throws. */
	static async withTemp(options, callback) {
		const sbx = await Sandbox.create(options);
		try {
			return await callback(sbx);
		} finally {
			await sbx.terminate();
		}
	}

	/** Continues a paused sandbox; from any process, by its id. */
	static async resume(sandboxId, options = {}) {
		const transport = new Transport(options);
		return new Sandbox(transport, await transport.call("POST", `/v1/sandboxes/${encodeURIComponent(sandboxId)}/resume`));
	}

	/** Yields the account's sandboxes, newest first, fetching further pages as they are needed. */
	static async *list({ status, ...options } = {}) {
		const transport = new Transport(options);
		const query = status ? { status } : {};
		for (;;) {
			const page = await transport.call("GET", "/v1/sandboxes", { query });
			for (const row of page.sandboxes)
				yield new Sandbox(transport, row);
			if (!page.next_cursor)
				return;
			query.cursor = page.next_cursor;
		}
	}

	/** The sizes and caps of the API key's plan, and what of them is used. */
	static async limits(options = {}) {
		const limits = camelKeys(await new Transport(options).call("GET", "/v1/sandboxes/limits"));
		limits.usageResetsAt = dateOf(limits.usageResetsAt);
		return limits;
	}

	/** Live CPU and memory; `since` (a Date) leaves out the samples up to then. */
	async metrics({ since } = {}) {
		const query = since ? { since: since.toISOString() } : {};
		const metrics = camelKeys(await this.#transport.call("GET", `${this.#path}/metrics`, { query }));
		metrics.samples = metrics.samples.map((sample) => ({ ...sample, t: dateOf(sample.t) }));
		return metrics;
	}

	/** Runs a shell command to its end. */
	async exec(command, { timeoutSeconds = DEFAULT_EXEC_TIMEOUT } = {}) {
		const body = { command, timeout_seconds: timeoutSeconds };
		const answer = await this.#transport.call("POST", `${this.#path}/exec`, { body });
		return {
			stdout: answer.stdout,
			stderr: answer.stderr,
			exitCode: answer.exit_code,
			durationMs: answer.duration_ms,
		};
	}

	/** Runs a shell command and yields its output as it is written. Leaving the loop early ends the command. */
	async *execStream(command, { timeoutSeconds = DEFAULT_EXEC_TIMEOUT } = {}) {
		const body = { command, timeout_seconds: timeoutSeconds, stream: true };
		for await (const event of this.#transport.stream(`${this.#path}/exec`, body)) {
			yield camelKeys(event);
			if (event.is_final)
				return;
		}
	}

	/** Snapshots memory and disk and stops the meter; resolves with the id for Sandbox.resume(). */
	async pause() {
		this.#take(await this.#transport.call("POST", `${this.#path}/pause`));
		return this.id;
	}

	/** Ends the sandbox. Its row stays in the account's history; a second call changes nothing. */
	async terminate() {
		this.#take(await this.#transport.call("DELETE", this.#path));
	}

	get #path() {
		return `/v1/sandboxes/${encodeURIComponent(this.id)}`;
	}

	#take(row) {
		this.id = row.id;
		this.status = row.status;
		this.template = row.template;
		this.createdAt = dateOf(row.created_at);
	}
}
