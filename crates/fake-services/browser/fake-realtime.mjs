// Supabase Realtime as a page meets it, after the sources of Realtime 2.129 and what was seen of it: the
// Phoenix protocol (version 2), who may join, when events begin to flow, and in which ways it goes quiet.
// It has no socket: `connect` takes a function for what it sends, so that FakeWebSocket below (in memory)
// and a real WebSocket server can stand before it.

import { readToken } from './fake-supabase.mjs'

const JOIN_REFUSAL_DELAY = 5_000 // CHANNEL_ERROR_BACKOFF_MS
const TOKEN_CHECK = 300_000
const READY_CHECK = 500
const READY_DEADLINE = 60_000
const SLOT_DELAY = 60
const NO_RIGHT = (topic) => `You do not have permissions to read from this Channel topic: ${topic}`
const NO_DATABASE = 'Realtime was unable to connect to the project database'

export class FakeRealtime {
  up = true
  privateOnly = false
  isRateLimited = false
  isForbidden = false // by the browser: the page's content security policy, or ws: on a page of https:
  reportsReady = true // false: a version before 2.111.4
  connections = new Set()
  #slot = 'none' // 'none', 'starting' (an open write transaction holds it up), 'ready'

  constructor(supabase) {
    this.supabase = supabase
    supabase.onCommit((messages, changes) => this.#committed(messages, changes))
  }

  /** Every channel that is joined, for tests. */
  get channels() {
    return [...this.connections].flatMap((connection) => [...connection.channels.values()])
  }

  /** A connection, or undefined if the server is down. `send` receives frames, `close` the end. */
  connect(url, { send, close }) {
    const key = new URL(url).searchParams.get('apikey')
    if (!this.up || !key) return undefined
    const connection = new Connection(this, send, close)
    this.connections.add(connection)
    return connection
  }

  forget(connection) {
    connection.end()
    this.connections.delete(connection)
  }

  /** Realtime restarts: every connection is closed, and the slot is lost. */
  stop() {
    this.up = false
    this.#slot = 'none'
    this.dropConnections()
  }

  start() {
    this.up = true
  }

  dropConnections() {
    for (const connection of [...this.connections]) {
      this.forget(connection)
      connection.close(1006)
    }
  }

  /** The network swallows everything, and nobody notices. */
  swallow() {
    for (const connection of this.connections) connection.isLost = true
  }

  /** PostgreSQL restarts. No channel learns of it; the slot is temporary, and made anew some time later. */
  restartDatabase(downFor = 3_000, slotAfter = 8_000) {
    this.supabase.databaseUp = false
    this.#slot = 'none'
    setTimeout(() => {
      this.supabase.databaseUp = true
      setTimeout(() => this.#startSlot(), slotAfter)
    }, downFor)
  }

  /** With the first private join, Realtime makes its slot; PostgreSQL waits for all open write transactions. */
  needSlot() {
    if (this.#slot === 'none' && this.supabase.databaseUp) this.#startSlot()
  }

  #startSlot() {
    if (this.#slot !== 'none' || !this.up) return
    this.#slot = 'starting'
    const begin = () => {
      if (this.#slot !== 'starting') return
      if (this.supabase.openTransactions > 0) setTimeout(begin, 100)
      else this.#slot = 'ready'
    }
    setTimeout(begin, SLOT_DELAY)
  }

  get isReplicating() {
    return this.#slot === 'ready'
  }

  #committed(messages, changes) {
    // postgres_changes has a slot of its own, and polls.
    for (const channel of this.channels) channel.rowsChanged(changes)
    if (this.#slot !== 'ready' || this.isRateLimited) return
    for (const message of messages) {
      for (const channel of this.channels) channel.broadcast(message)
    }
  }

  /** A client's own broadcast, on a public channel: nobody is asked. */
  relay(sender, event, payload) {
    for (const channel of this.channels) {
      if (channel !== sender && !channel.isPrivate && channel.topic === sender.topic) channel.push('broadcast', { type: 'broadcast', event, payload })
    }
  }
}

class Connection {
  channels = new Map()
  isLost = false

  constructor(realtime, send, close) {
    this.realtime = realtime
    this.sendFrame = send
    this.close = close
  }

  end() {
    for (const channel of this.channels.values()) channel.end()
    this.channels.clear()
    this.ended = true
  }

  send(frame) {
    if (!this.ended && !this.isLost) this.sendFrame(frame)
  }

  reply(joinRef, ref, topic, status, response = {}) {
    this.send(JSON.stringify([joinRef, ref, topic, 'phx_reply', { status, response }]))
  }

  receive(frame) {
    if (this.ended || this.isLost) return
    const [joinRef, ref, topic, event, payload] = typeof frame === 'string' ? JSON.parse(frame) : userBroadcast(frame)
    const channel = this.channels.get(topic)
    if (topic === 'phoenix' && event === 'heartbeat') this.reply(null, ref, topic, 'ok')
    else if (event === 'phx_join') this.#join(channel, joinRef, ref, topic, payload)
    else if (event === 'phx_leave') {
      if (channel && channel.joinRef !== joinRef) return
      this.reply(joinRef, ref, topic, 'ok')
      channel?.close()
    } else if (!channel || channel.joinRef !== joinRef) this.reply(joinRef, ref, topic, 'error', { reason: 'unmatched topic' })
    else channel.receive(event, payload)
  }

  #join(duplicate, joinRef, ref, topic, { config = {}, access_token }) {
    duplicate?.close()
    const { supabase, privateOnly } = this.realtime
    const name = topic.replace('realtime:', '')
    const isPrivate = Boolean(config.private)
    const { error, claims } = readToken(access_token ?? supabase.anonKey)
    const mayRead = () => supabase.canJoin(claims, name)
    let reason
    if (privateOnly && !isPrivate) reason = 'PrivateOnly: This project only allows private channels'
    else if (error) reason = error
    else if (!supabase.databaseUp) reason = `UnableToConnectToProject: ${NO_DATABASE}`
    else if (isPrivate && !mayRead()) reason = `Unauthorized: ${NO_RIGHT(name)}`
    else if (config.broadcast?.replay && !Number.isInteger(config.broadcast.replay.since)) {
      reason = 'UnableToReplayMessages: Replay params are not valid'
    }
    if (reason) {
      setTimeout(() => this.reply(joinRef, ref, topic, 'error', { reason }), JOIN_REFUSAL_DELAY)
      return
    }
    const channel = new Channel(this, joinRef, topic, config, access_token ?? supabase.anonKey, claims)
    this.channels.set(topic, channel)
    this.reply(joinRef, ref, topic, 'ok', { postgres_changes: channel.bindings })
    channel.begin()
  }
}

class Channel {
  #timers = new Set()
  #tokenTimer
  #token
  #claims

  constructor(connection, joinRef, topic, config, token, claims) {
    this.connection = connection
    this.realtime = connection.realtime
    this.joinRef = joinRef
    this.topic = topic
    this.name = topic.replace('realtime:', '')
    this.config = config
    this.isPrivate = Boolean(config.private)
    this.bindings = (config.postgres_changes ?? []).map((binding, index) => ({ ...binding, id: index + 1 }))
    this.#token = token
    this.#claims = claims
    this.joinedWith = claims
  }

  get claims() {
    return this.#claims
  }

  begin() {
    this.#checkTokenLater()
    const { replay, replication_ready } = this.config.broadcast ?? {}
    if (replay) this.#replay(replay)
    if (this.config.presence?.enabled) this.push('presence_state', {})
    if (this.isPrivate) this.realtime.needSlot()
    if (replication_ready && this.realtime.reportsReady) this.#reportReady(Date.now() + READY_DEADLINE)
    if (this.bindings.length > 0) {
      this.#after(200, () => this.system('ok', 'Subscribed to PostgreSQL', 'postgres_changes'))
    }
  }

  end() {
    for (const timer of this.#timers) clearTimeout(timer)
    this.ended = true
  }

  #after(milliseconds, action) {
    const timer = setTimeout(() => {
      this.#timers.delete(timer)
      action()
    }, milliseconds)
    this.#timers.add(timer)
    return timer
  }

  push(event, payload) {
    if (!this.ended) this.connection.send(JSON.stringify([this.joinRef, null, this.topic, event, payload]))
  }

  system(status, message, extension = 'system') {
    this.push('system', { extension, status, message, channel: this.name })
  }

  /** The channel ends without an error: this is all that the page receives. */
  close(message) {
    if (message) this.system('error', message)
    this.connection.send(JSON.stringify([this.joinRef, this.joinRef, this.topic, 'phx_close', {}]))
    this.end()
    if (this.connection.channels.get(this.topic) === this) this.connection.channels.delete(this.topic)
  }

  #checkTokenLater() {
    clearTimeout(this.#tokenTimer)
    const left = this.#claims.exp * 1000 - Date.now()
    this.#tokenTimer = this.#after(Math.min(TOKEN_CHECK, left), () => {
      const { expired } = readToken(this.#token)
      if (expired) this.close(expired)
      else this.#checkTokenLater()
    })
  }

  #reportReady(deadline) {
    if (this.realtime.isReplicating) this.system('ok', 'Replication connection established')
    else if (Date.now() >= deadline) this.close('Replication connection was not established in time')
    else this.#after(READY_CHECK, () => this.#reportReady(deadline))
  }

  #replay({ since, limit = 25 }) {
    const past = this.realtime.supabase.messages.filter((message) => message.topic === this.name && message.inserted_at >= since)
    this.replayed = new Set()
    for (const { id, event, payload } of past.slice(-Math.max(1, Math.min(limit, 25)))) {
      this.replayed.add(id)
      this.push('broadcast', { type: 'broadcast', event, payload, meta: { replayed: true, id } })
    }
  }

  receive(event, payload) {
    if (event === 'access_token') this.#renew(payload.access_token)
    else if (event === 'broadcast' && !this.isPrivate) this.realtime.relay(this, payload.event, payload.payload)
    // Nobody has a policy to broadcast on a private channel of pg_civic: Realtime ignores it.
  }

  #renew(token) {
    if (!token || token.startsWith('sb_') || token === this.#token) return
    const { error, expired, claims } = readToken(token)
    if (error) this.close(expired ?? error.replace('MalformedJWT: ', ''))
    else if (!this.realtime.supabase.databaseUp) this.close(NO_DATABASE)
    else if (this.isPrivate && !this.realtime.supabase.canJoin(claims, this.name)) this.close(NO_RIGHT(this.name))
    else {
      this.#token = token
      this.#claims = claims
      this.#checkTokenLater()
    }
  }

  broadcast({ id, topic, event, payload }) {
    if (this.ended || !this.isPrivate || topic !== this.name || this.replayed?.has(id)) return
    this.connection.send(userBroadcastFrame(this.topic, event, payload, { id }))
  }

  rowsChanged(changes) {
    for (const binding of this.bindings) {
      for (const [before, after] of changes) {
        const row = after ?? before
        // Row security is not asked for a DELETE.
        if (after && !this.realtime.supabase.visible(this.#claims).some(({ id }) => id === row.id)) continue
        const type = !after ? 'DELETE' : before ? 'UPDATE' : 'INSERT'
        if (binding.event !== '*' && binding.event !== type) continue
        const columns = Object.keys(row).map((name) => ({ name, type: typeof row[name] === 'boolean' ? 'bool' : 'text' }))
        const data = { schema: 'public', table: 'tickets', type, commit_timestamp: new Date().toISOString(), columns, errors: null }
        if (after) data.record = after
        if (before) data.old_record = { id: before.id }
        this.#after(100, () => this.push('postgres_changes', { ids: [binding.id], data }))
      }
    }
  }
}

/** Realtime's own frame for a broadcast out of the database: kind 4, lengths, then the parts. */
function userBroadcastFrame(topic, event, payload, meta) {
  const parts = [topic, event, JSON.stringify(meta), JSON.stringify(payload)].map((part) => new TextEncoder().encode(part))
  const [topicSize, eventSize, metaSize] = parts.map((part) => part.length)
  const frame = new Uint8Array(5 + parts.reduce((sum, part) => sum + part.length, 0))
  frame.set([4, topicSize, eventSize, metaSize, 1])
  let offset = 5
  for (const part of parts) {
    frame.set(part, offset)
    offset += part.length
  }
  return frame.buffer
}

/** A client's broadcast: kind 3, lengths of five parts, the encoding, then the parts and the payload. */
function userBroadcast(frame) {
  const bytes = new Uint8Array(frame)
  const sizes = bytes.slice(1, 6)
  let offset = 7
  const [joinRef, ref, topic, event] = [...sizes].map((size) => {
    offset += size
    return new TextDecoder().decode(bytes.slice(offset - size, offset))
  })
  const payload = JSON.parse(new TextDecoder().decode(bytes.slice(offset)))
  return [joinRef, ref, topic, 'broadcast', { event, payload }]
}

/** A WebSocket to the fake, for the `transport` of supabase-js or for globalThis.WebSocket. */
export function fakeWebSocket(realtime, latency = 1) {
  return class FakeWebSocket {
    static CONNECTING = 0
    static OPEN = 1
    static CLOSING = 2
    static CLOSED = 3
    readyState = 0
    bufferedAmount = 0
    protocol = ''
    onopen = null
    onmessage = null
    onclose = null
    onerror = null

    constructor(url) {
      if (realtime.isForbidden) throw new Error('the page may not connect to this address')
      this.url = String(url)
      setTimeout(() => {
        if (this.readyState !== 0) return
        this.connection = realtime.connect(this.url, {
          send: (data) => setTimeout(() => this.readyState === 1 && this.onmessage?.({ data }), latency),
          close: (code) => this.#end(code),
        })
        if (!this.connection) {
          this.readyState = 3
          this.onerror?.({ type: 'error' })
          this.onclose?.({ type: 'close', code: 1006, reason: '', wasClean: false })
          return
        }
        this.readyState = 1
        this.onopen?.({ type: 'open' })
      }, latency)
    }

    #end(code, reason = '') {
      if (this.readyState === 3) return
      this.readyState = 3
      this.onclose?.({ type: 'close', code, reason, wasClean: code === 1000 })
    }

    send(data) {
      setTimeout(() => this.connection.receive(data), latency)
    }

    close(code = 1000, reason = '') {
      if (this.readyState >= 2) return
      this.readyState = 2
      setTimeout(() => {
        if (this.connection) realtime.forget(this.connection)
        this.#end(code, reason)
      }, latency)
    }
  }
}
