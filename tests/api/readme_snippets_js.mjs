// The JavaScript README's code, as it stands there; test_readme.py runs each piece. Not to be tidied up.

// --- quickstart
import { Sandbox } from "orkestr";
await Sandbox.withTemp({ template: "python-3.12" }, async (sbx) => {
await sbx.files.write("/workspace/main.py", "print(sum(range(1_000_000)))");
const result = await sbx.exec("python /workspace/main.py");
console.log(result.stdout); // 499999500000
console.log(result.durationMs); // ~120
});

// --- create
const sbx = await Sandbox.create({
template: "python-3.12", // one of the templates below
size: "small", // "small" | "medium" | "large" (plan-capped)
network: "off", // "off" | "restricted" | "open"
timeoutSeconds: 600, // auto-terminate after this many seconds
env: { OPENAI_API_KEY: "sk-..." },
metadata: { agentRun: "r_123" },
region: "fsn1", // "fsn1" | "hel1" | undefined for auto
apiKey: process.env.ORKESTR_API_KEY,
});
console.log(sbx.id); // "sbx_01HXYZ..."
console.log(sbx.status); // "running"

// --- limits
const limits = await Sandbox.limits();
limits.plan; // "free"
limits.allowedSizes; // ["small"]
limits.allowedSizes.includes("medium"); // false
limits.maxConcurrent; // 1
limits.usageGbHoursUsed; // 2.5 (memory consumed this month)
limits.usageGbHoursIncluded; // 10.0 (memory budget for the month)
limits.usageCpuHoursUsed; // 0.42 (CPU consumed this month)
limits.usageCpuHoursIncluded; // 2.0 (CPU budget for the month)
limits.usageResetsAt; // Date - 1st of next month UTC
for (const s of limits.sizes) { // full menu, each with .allowed
console.log(s.size, s.cpu, s.memoryMb, s.allowed);
}

// --- metrics
const m = await sbx.metrics();
m.cpu.usagePercent; // 47.0 (% of allocated cores; pegged 1-core = 100)
m.cpu.usageCores; // 0.94 (cores in use of m.cpu.cores)
m.memory.usageBytes; // 1879048192 (working set, excludes reclaimable cache)
m.memory.usagePercent; // 43.7 (% of m.memory.limitBytes)
m.lifetime.cpuSeconds; // 1284.31 (on-CPU seconds since the sandbox started)
for (const s of m.samples) { // oldest first; s.t is a Date
console.log(s.t, s.cpuPercent, s.memBytes);
}

// --- run
const result = await sbx.exec("python /workspace/main.py", {
timeoutSeconds: 60,
});
result.stdout; // string
result.stderr; // string
result.exitCode; // number
result.durationMs; // number

// --- stream
for await (const chunk of sbx.execStream("python long_task.py")) {
if (chunk.stream === "stdout") {
process.stdout.write(chunk.data);
} else {
process.stderr.write(chunk.data);
}
}

// --- files
await sbx.files.write("/workspace/data.json", '{"x": 1}');
await sbx.files.writeBytes("/workspace/blob.bin", new Uint8Array([0, 1, 2]));
const content = await sbx.files.read("/workspace/out.txt"); // string
const raw = await sbx.files.readBytes("/workspace/blob.bin"); // Uint8Array
for (const entry of await sbx.files.list("/workspace")) {
console.log(entry.name, entry.isDir, entry.size);
}
await sbx.files.delete("/workspace/out.txt");

// --- pause
const sbx = await Sandbox.create({ template: "node-22", network: "restricted" });
const sandboxId = await sbx.pause();
// ... minutes or hours later, from any worker:
const resumed = await Sandbox.resume(sandboxId);

// --- terminate
await sbx.terminate();

// --- list
for await (const sbx of Sandbox.list({ status: "running" })) {
console.log(sbx.id, sbx.template, sbx.createdAt);
}
