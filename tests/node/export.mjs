// Sends one trace, two metrics and one log record with the real exporters: node export.mjs http|proto|grpc ENDPOINT [TOKEN]
// Prints one line of JSON: the ids of the spans, and what the exporters said.
import { createRequire } from "node:module";
import { diag, SpanKind, SpanStatusCode, trace, context } from "@opentelemetry/api";
import { resourceFromAttributes } from "@opentelemetry/resources";
import { BasicTracerProvider, BatchSpanProcessor } from "@opentelemetry/sdk-trace-base";
import { MeterProvider, PeriodicExportingMetricReader } from "@opentelemetry/sdk-metrics";
import { LoggerProvider, BatchLogRecordProcessor } from "@opentelemetry/sdk-logs";

const [kind, endpoint, token] = process.argv.slice(2);
const require = createRequire(import.meta.url);
const complaints = [];
const complain = (...words) => complaints.push(words.map(String).join(" "));
diag.setLogger({ error: complain, warn: complain, info() {}, debug() {}, verbose() {} });

function options(path) {
  if (kind === "grpc") {
    const { Metadata } = require("@grpc/grpc-js");
    const metadata = new Metadata();
    if (token) metadata.set("authorization", `Bearer ${token}`);
    return { url: endpoint, metadata };
  }
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  return { url: `${endpoint}/v1/${path}`, headers, compression: kind === "proto" ? "gzip" : "none" };
}

const { OTLPTraceExporter } = require(`@opentelemetry/exporter-trace-otlp-${kind}`);
const { OTLPMetricExporter } = require(`@opentelemetry/exporter-metrics-otlp-${kind}`);
const { OTLPLogExporter } = require(`@opentelemetry/exporter-logs-otlp-${kind}`);
const resource = resourceFromAttributes({
  "service.name": "checkout",
  "service.namespace": "shop",
  "k8s.pod.name": "checkout-1",
  "k8s.node.name": "node-a",
});

const traces = new BasicTracerProvider({
  resource,
  spanProcessors: [new BatchSpanProcessor(new OTLPTraceExporter(options("traces")))],
});
const tracer = traces.getTracer("conformance");
const server = tracer.startSpan("POST /order", { kind: SpanKind.SERVER });
const below = trace.setSpan(context.active(), server);
const client = tracer.startSpan(
  "SELECT orders",
  { kind: SpanKind.CLIENT, attributes: { "db.system.name": "postgresql", "db.namespace": "orders", "server.port": 5432 } },
  below,
);
client.recordException(new Error("connection 17 reset"));
client.setStatus({ code: SpanStatusCode.ERROR });
client.end();
server.end();

const meters = new MeterProvider({
  resource,
  readers: [new PeriodicExportingMetricReader({ exporter: new OTLPMetricExporter(options("metrics")) })],
});
const meter = meters.getMeter("conformance");
meter.createObservableGauge("process.load").addCallback((result) => result.observe(0.5));
const counter = meter.createCounter("orders");
counter.add(3);
await meters.forceFlush();
counter.add(6);
await meters.forceFlush();

const logs = new LoggerProvider({
  resource,
  processors: [new BatchLogRecordProcessor({ exporter: new OTLPLogExporter(options("logs")) })],
});
logs.getLogger("conformance").emit({ severityNumber: 17, severityText: "ERROR", body: "order 42 lost" });

await Promise.allSettled([traces.shutdown(), meters.shutdown(), logs.shutdown()]);
const ids = [server, client].map((span) => span.spanContext());
console.log(JSON.stringify({ traceId: ids[0].traceId, spanIds: ids.map((id) => id.spanId), complaints }));
