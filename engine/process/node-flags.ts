// How the agent starts node for a replica or target process. Their data lives in the addon; JavaScript only configures and
// reports, so a small heap is enough, and small semi-spaces keep the resident size down.
export const dataPlaneNodeFlags: readonly string[] = ['--max-old-space-size=128', '--max-semi-space-size=2'];
