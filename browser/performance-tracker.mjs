import "./performance-tracker.js";

export const PerformanceTracker = globalThis.PerformanceTracker;
PerformanceTracker.url ??= new URL("./performance-tracker.js", import.meta.url).href;
export default PerformanceTracker;
