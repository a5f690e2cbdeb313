/** What this pack uses of ComfyUI's frontend, and nothing more. Seen in versions 1.47.12 and 1.58.1. */

export interface Slot {
  name: string
  type?: string
  label?: string
  link?: number | null
  links?: number[] | null
  /** The links of a subgraph's own input, seen from inside. */
  linkIds?: number[]
  widget?: { name: string }
}

export interface Link {
  origin_id: number | string
  origin_slot: number
  target_id: number | string
  target_slot: number
}

export interface WidgetOptions {
  min?: number
  max?: number
  round?: number
  step?: number
  step2?: number
  precision?: number
  hidden?: boolean
  read_only?: boolean
  values?: unknown
  getMinHeight?: () => number
  getMaxHeight?: () => number | undefined
  [name: string]: unknown
}

export interface Widget {
  name: string
  type: string
  label?: string
  value: unknown
  y: number
  width?: number
  hidden?: boolean
  serialize?: boolean
  computedDisabled?: boolean
  computedHeight?: number
  options?: WidgetOptions
  /** Of a widget that is an element of the page; a multiline text's is its textarea. */
  element?: HTMLElement
  node?: GraphNode
  callback?: (this: Widget, value: any, ...rest: any[]) => unknown
  triggerDraw?: () => void
  computeSize?: () => [number, number]
  /** What an API prompt gets instead of the value. */
  serializeValue?: (node: GraphNode, index: number) => unknown
}

export interface DomWidgetOptions extends WidgetOptions {
  serialize?: boolean
  hideOnZoom?: boolean
  hideInPanel?: boolean
  selectOn?: string[]
  margin?: number
  getValue?: () => string
  setValue?: (value: string) => void
}

export interface GraphNode {
  id: number | string
  type: string
  comfyClass?: string
  title?: string
  graph: Graph | null
  /** Of one that is in the page only, such as a reroute. */
  isVirtualNode?: boolean
  /** Of a node that stands for a subgraph: what is inside. */
  subgraph?: Graph
  inputs?: Slot[]
  outputs?: Slot[]
  widgets?: Widget[]
  properties?: Record<string, unknown>
  size: [number, number]
  pos: [number, number]
  flags?: { collapsed?: boolean }
  /** 4: bypassed. */
  mode?: number
  setSize(size: [number, number]): void
  computeSize(): [number, number]
  getWidgetFromSlot(slot: Slot): Widget | undefined
  addDOMWidget(name: string, type: string, element: HTMLElement, options: DomWidgetOptions): Widget
  addWidget?(
    type: string,
    name: string,
    value: unknown,
    callback: (value: unknown) => void,
    options: WidgetOptions,
  ): Widget | undefined
  onWidgetChanged?(name: string, value: unknown, before: unknown, widget: Widget): void
  connect?(slot: number, target: GraphNode, input: number): unknown
  serialize?(): object
  onAdded?: (...values: any[]) => unknown
  onRemoved?: (...values: any[]) => unknown
  onConfigure?: (...values: any[]) => unknown
  onExecuted?: (...values: any[]) => unknown
  onConnectionsChange?: (...values: any[]) => unknown
}

export interface Graph {
  id: string
  rootGraph?: Graph
  nodes: GraphNode[]
  inputs: (Slot & { connect?(slot: Slot | undefined, node: GraphNode): unknown })[]
  outputs?: (Slot & { connect?(slot: Slot | undefined, node: GraphNode): unknown })[]
  add?(node: GraphNode): unknown
  remove?(node: GraphNode): unknown
  links?: { get?(id: number): Link | undefined }
  getLink?(id: number): Link | undefined
  getNodeById(id: number | string): GraphNode | null
  setDirtyCanvas?(foreground: boolean, background: boolean): void
}

export interface Canvas {
  /** The one that is shown: a subgraph, or the whole. */
  graph?: Graph | null
  canvas: HTMLCanvasElement
  ds?: { scale: number }
  read_only?: boolean
  emitBeforeChange?(): void
  emitAfterChange?(): void
  processMouseWheel(event: WheelEvent): void
  processMouseDown(event: PointerEvent): void
}

/** ComfyUI's undo of one workflow. While its count is above zero no step is recorded. */
export interface ChangeTracker {
  /** In newer editors: what is to be added to the last step soon. */
  squashState?: { flush?(): void }
  changeCount: number
  /** While a state is loaded. */
  _restoringState?: boolean
  /** What is recorded last; before it, the states that undo goes back to; and what was opened or saved last. */
  activeState: object
  undoQueue: object[]
  redoQueue: object[]
  initialState: object
}

export interface App {
  canvas?: Canvas
  graph?: Graph
  rootGraph?: Graph
  nodeOutputs?: Record<string, Record<string, unknown[]>>
  extensionManager?: {
    setting?: { get(id: string): unknown }
    dialog: { prompt(question: { title: string; message: string; defaultValue: string }): Promise<string | null> }
    toast?: { add(message: { severity: string; summary: string; detail: string; life: number }): void }
    workflow?: { activeWorkflow?: { changeTracker?: ChangeTracker; activeMode?: string | null } | null }
  }
  registerExtension(extension: Extension): void
}

export interface Extension {
  name: string
  settings?: Record<string, unknown>[]
  setup?(): Promise<void> | void
  beforeRegisterNodeDef?(type: unknown, definition: { name: string }): void
  nodeCreated?(node: GraphNode): void
  refreshComboInNodes?(definitions?: Record<string, unknown>): void
  getNodeMenuItems?(node: GraphNode): { content: string; callback: () => void }[]
}

export interface Api extends EventTarget {
  fetchApi(path: string, options?: RequestInit): Promise<Response>
  apiURL(path: string): string
}

declare global {
  var LiteGraph: { vueNodesMode?: boolean; createNode?(type: string): GraphNode | null } | undefined
}
