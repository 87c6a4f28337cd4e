/** Messages of control.proto, as the proto loader returns them. */
export interface NodeView {
  readonly node_id: string;
  readonly agent_id: string;
  readonly state: string;
  readonly version: string;
  readonly pid: number;
  readonly started_at_ms: number;
  readonly pools: number;
  readonly workers: number;
  readonly workers_ready: number;
  readonly http_address: string;
  readonly listen_address: string;
  readonly config_path: string;
  readonly config_error: string;
  readonly ledger_error: string;
  readonly restart_needed: readonly string[];
  readonly warnings: readonly string[];
  readonly managed_by: string;
  readonly cluster_uid: string;
  readonly epoch: number;
  readonly generation: number;
  readonly drift: string;
}

export interface PoolView {
  readonly pool: string;
  readonly state: string;
  readonly size: number;
  readonly workers_starting: number;
  readonly workers_ready: number;
  readonly workers_draining: number;
  readonly workers_stopping: number;
  readonly queued: number;
  readonly in_flight: number;
  readonly requests_completed: number;
  readonly requests_failed: number;
  readonly commands: readonly { readonly name: string; readonly summary: string; readonly streams: boolean }[];
  readonly slots_backing_off: number;
  readonly last_failure: string;
  readonly quarantine: string;
  readonly waiting_slots: string;
  readonly drift: string;
}

export interface RollView {
  readonly pool: string;
  readonly roll_id: string;
  readonly state: string;
  readonly total: number;
  readonly replaced: number;
  readonly replacing: number;
  readonly failures: number;
  readonly message: string;
}

export interface WorkerView {
  readonly worker_id: string;
  readonly pool: string;
  readonly slot: number;
  readonly generation: number;
  readonly pid: number;
  readonly state: string;
  readonly health: string;
  readonly reason: string;
  readonly ready_at_ms: number;
  readonly in_flight: number;
  readonly requests_completed: number;
  readonly requests_failed: number;
  readonly ping_round_trip_ms: number;
  readonly missed_pings: number;
  readonly memory_bytes: number;
  readonly memory_source: string;
  readonly cpu: number;
  readonly progress: number;
  readonly progress_message: string;
}

export interface HandoverView {
  readonly node: NodeView;
  readonly workers: readonly WorkerView[];
  readonly timeout_ms: number;
  readonly command_line: readonly string[];
}

export interface EventView {
  readonly at_ms: number;
  readonly kind: string;
  readonly pool: string;
  readonly worker_id: string;
  readonly reason: string;
  readonly message: string;
}

export interface ExitView {
  readonly worker_id: string;
  readonly pool: string;
  readonly generation: number;
  readonly pid: number;
  readonly reason: string;
  readonly message: string;
  readonly started_at_ms: number;
  readonly exited_at_ms: number;
  readonly requests_completed: number;
  readonly requests_failed: number;
  readonly memory_bytes: number;
  readonly evidence: EvidenceView | null;
}

export interface EvidenceView {
  readonly taken_at_ms: number;
  readonly because: string;
  readonly state: string;
  readonly threads: readonly string[];
  readonly stacks: string;
  readonly stacks_missing: string;
  readonly requests: readonly RequestNoteView[];
  readonly last_lines: readonly string[];
}

export interface RequestNoteView {
  readonly command: string;
  readonly request_id: string;
  readonly age_ms: number;
  readonly cancelled: boolean;
  readonly progress: number;
  readonly progress_message: string;
}

export interface ExplanationView {
  readonly worker: WorkerView | null;
  readonly health: string;
  readonly because: string;
  readonly observations: readonly { readonly name: string; readonly value: string }[];
  readonly requests: readonly RequestNoteView[];
  readonly exit: ExitView | null;
}

export interface ReloadView {
  readonly config_path: string;
  readonly problems: readonly ConfigProblemView[];
  readonly plan: PlanView | null;
  readonly restart_needed: readonly string[];
  readonly applied: boolean;
}

export interface ConfigProblemView {
  readonly file: string;
  readonly line: number;
  readonly column: number;
  readonly path: string;
  readonly message: string;
}

export interface PlanView {
  readonly pools: readonly PoolPlanView[];
  readonly node: readonly PlanStepView[];
  readonly pools_left_out: number;
}

export interface PoolPlanView {
  readonly pool: string;
  readonly size_now: number;
  readonly size_planned: number;
  readonly steps: readonly PlanStepView[];
}

export interface PlanStepView {
  readonly kind: string;
  readonly workers: number;
  readonly why: string;
}
