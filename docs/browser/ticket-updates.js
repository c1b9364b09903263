// Keeps a list of tickets current in the browser: reads it, follows the events of pg_civic over Supabase
// Realtime, and recovers from everything that browsers.md lists. Copy this file into the page; it needs
// nothing but a supabase-js client (2.109 or later) and Realtime 2.111.4 or later.
//
//     const watch = watchTickets({ supabase, topics, load, onTickets })
//     watch.refresh()   reads the list now, for example after a change of the page's own
//     watch.stop()      leaves the channels; no callback runs after it
//
// Options:
//   supabase      the client, with a user who is signed in
//   topics        one topic or several: `ticket_updates:${municipalityId}`, the same with `:sensitive`,
//                 `ticket_owner:${userId}`. A client can join each topic once at a time.
//   load          reads the list: returns rows with `id`, `updated_at` and `created_at`, or the result of a
//                 supabase-js query. Receives { signal }, which aborts a read that takes over 30 s.
//   keep          optional: which tickets belong to the list, (ticket) => boolean. Events report every
//                 ticket of the topic, also those that `load` leaves out.
//   onTickets     optional: receives the whole list after each change, as a new array in the order of `load`.
//                 A ticket that only an event has reported comes last, and has the columns of the event
//                 until the next read.
//   onEvent       optional: receives each event, { topic, event, payload, replayed }. `replayed` is true for
//                 one that was missed while the channel was closed.
//   onStatus      optional: receives { topic, status, reason }, status being
//                   joining   not live yet
//                   live      events flow
//                   waiting   interrupted, and tried again with growing pauses
//                   refused   the user may not join this topic; tried again every five minutes
//   onError       optional: receives the error of a failed read, or of a callback. Default: console.error
//   refreshEvery  milliseconds between two reads of the list, 60 000 by default

const READY = 'Replication connection established'
const DENIED = /unauthorized|permission/i
const READ_TIMEOUT = 30_000
const AUTH_TIMEOUT = 15_000
const LONGEST_PAUSE = 30_000
const STEADY_AFTER = 30_000
const REFUSED_PAUSE = 300_000
const REPLAY_MARGIN = 60_000
const REMEMBERED_MESSAGES = 200
/** The columns of which events carry the value, under which key. */
const COLUMNS = {
  tenant_id: 'municipality_id',
  tracking_number: 'tracking_number',
  status: 'status',
  category: 'category',
  ward_id: 'ward_id',
  is_sensitive: 'is_sensitive',
}

/** A pause of one second that doubles with each attempt; pages must not all come back at the same moment. */
const pause = (attempts) => Math.min(LONGEST_PAUSE, 1000 * 2 ** attempts) * (0.5 + Math.random() / 2)

/** The promise, or an error if it takes too long. */
function within(milliseconds, promise, onTimeout) {
  let timer
  const tooLong = new Promise((_, reject) => {
    timer = setTimeout(() => {
      onTimeout?.()
      reject(Object.assign(new Error(`no answer within ${milliseconds / 1000} s`), { name: 'TimeoutError' }))
    }, milliseconds)
  })
  return Promise.race([promise, tooLong]).finally(() => clearTimeout(timer))
}

/** When a row changed last, in the unit of an event's `updated_at`: seconds since 1970. */
const changedAt = (row) => Date.parse(row.updated_at ?? row.created_at) / 1000

/** Says only that a sensitive ticket has changed. */
const isRedacted = (payload) =>
  Boolean(payload.is_sensitive) && [payload.tracking_number, payload.status, payload.category].every((value) => value == null)

/** The tickets that were read, and what events have changed since. */
class TicketList {
  #tickets = new Map()

  constructor({ hasSensitiveTopic = false } = {}) {
    this.hasSensitiveTopic = hasSensitiveTopic
  }

  get tickets() {
    return [...this.#tickets.values()].map(({ ticket }) => ticket)
  }

  /** Takes over the rows of a read, then the events that arrived during it. True if it must be read again. */
  replace(rows, events) {
    this.#tickets = new Map(rows.map((row) => [String(row.id), { ticket: row, isRead: true }]))
    return events.map((payload) => this.apply(payload)).includes(true)
  }

  /** Takes over an event. True if the list must be read again to know the ticket. */
  apply(payload) {
    const { type, ticket_id: id, updated_at: changed } = payload
    if (type === 'BULK') return true
    if (!['INSERT', 'UPDATE', 'DELETE'].includes(type) || typeof id !== 'string') return false
    if (type === 'DELETE') {
      this.#tickets.delete(id)
      return false
    }
    const { ticket, isRead } = this.#tickets.get(id) ?? {}
    // Events come in the order of the commits. Only a row that was read may be ahead of them.
    if (isRead && changed < changedAt(ticket)) return false
    if (isRedacted(payload) && !this.hasSensitiveTopic) {
      // The row policy decides whether this user still sees it. Until it is read, it is not shown.
      if (!ticket?.is_sensitive) this.#tickets.delete(id)
      return true
    }
    if (payload.truncated) return true
    if (isRedacted(payload)) return false // the whole event is on the other topic
    const merged = { ...(ticket ?? { id }) }
    const date = new Date(typeof changed === 'number' ? changed * 1000 : NaN)
    if (!Number.isNaN(date.getTime())) merged.updated_at = date.toISOString()
    for (const [column, key] of Object.entries(COLUMNS)) {
      // Null also means that the table has no such column.
      if (payload[key] != null || column in merged) merged[column] = payload[key] ?? null
    }
    this.#tickets.set(id, { ticket: merged, isRead: false })
    return false
  }
}

/** One topic: joins, and joins again until `stop`. */
function watchTopic({ supabase, topic, onMessage, onLive, onStatus }) {
  let channel // the current one; null while a retry is pending
  let timer
  let attempts = 0
  let isRenewed = false // whether the current attempt has the user's newest claims
  let liveSince // when the current channel became live
  let lostAt // when the last live channel was lost: replay begins there
  let joinedAt // when the current attempt began
  let status
  let systemError // why the server is about to close the channel
  let lastReason = '' // why the next attempt is needed
  let stopped = false

  function report(next, reason) {
    if (stopped || next === status) return
    status = next
    onStatus({ topic, status, reason })
  }

  function config() {
    const broadcast = { replication_ready: true }
    if (lostAt) broadcast.replay = { since: Math.max(0, lostAt - REPLAY_MARGIN), limit: 25 }
    return { private: true, broadcast, presence: { key: '', enabled: false } }
  }

  function lose() {
    if (liveSince === undefined) return
    lostAt = Date.now()
    if (lostAt - liveSince > STEADY_AFTER) attempts = 0
    liveSince = undefined
  }

  function drop() {
    const old = channel
    channel = null
    if (old) Promise.resolve(supabase.removeChannel(old)).catch(() => {})
  }

  /** Whether the session is as new as it can be. Without an answer of the server nothing is known. */
  async function renewSession() {
    // A client with its own accessToken function has no auth, and throws.
    const renewal = Promise.resolve().then(() => supabase.auth.refreshSession())
    const { error } = await within(AUTH_TIMEOUT, renewal).catch((problem) => ({ error: problem }))
    return !['AuthRetryableFetchError', 'TimeoutError'].includes(error?.name)
  }

  async function join() {
    clearTimeout(timer)
    timer = undefined
    drop()
    joinedAt = Date.now()
    // getSession, behind setAuth, renews only what has expired by this computer's clock.
    isRenewed = DENIED.test(lastReason) || /token|jwt/i.test(lastReason) ? await renewSession() : false
    await within(AUTH_TIMEOUT, supabase.realtime.setAuth()).catch(() => {})
    if (stopped) return
    systemError = undefined
    const joining = supabase.channel(topic, { config: config() })
    channel = joining
    try {
      joining
        .on('broadcast', { event: '*' }, (message) => channel === joining && onMessage(message))
        .on('system', {}, (message) => channel === joining && onSystem(message))
        .subscribe((state, error) => channel === joining && onState(state, error))
    } catch (error) {
      retryLater(error.message) // the browser forbids the connection
    }
  }

  function onSystem({ status: outcome, message }) {
    if (outcome === 'error') systemError = message
    if (message !== READY) return
    liveSince = Date.now()
    lastReason = ''
    report('live')
    onLive()
  }

  function onState(state, error) {
    if (state === 'SUBSCRIBED') return // events may flow much later
    const reason = (state === 'CLOSED' && systemError) || error?.message || state
    lose()
    if (state !== 'CLOSED' && !supabase.realtime.isConnected()) {
      // supabase-js connects again and joins the same channel again.
      joinedAt = Date.now()
      channel.updateJoinPayload?.({ config: { ...config(), postgres_changes: [] } })
      report('waiting', reason)
      return
    }
    if (state === 'CLOSED') channel = null // supabase-js has removed it
    retryLater(reason)
  }

  function retryLater(reason) {
    drop()
    lastReason = reason
    if (/replay/i.test(reason)) lostAt = undefined
    const isRefused = isRenewed && DENIED.test(reason)
    report(isRefused ? 'refused' : 'waiting', reason)
    const delay = isRefused ? REFUSED_PAUSE * (0.9 + Math.random() / 5) : pause(attempts++)
    timer = setTimeout(join, delay)
  }

  report('joining')
  join()

  return {
    /** Something may have changed for the better: do not wait for the pause to end. */
    wake() {
      if (timer !== undefined) join()
    },
    /** Called every minute: what neither supabase-js nor the server has mended. */
    check() {
      if (channel?.state === 'joined' || timer !== undefined || Date.now() - joinedAt < 60_000) return
      if (supabase.realtime.isConnected()) join()
      else supabase.realtime.connect()
    },
    stop() {
      stopped = true
      clearTimeout(timer)
      drop()
    },
  }
}

export function watchTickets(options) {
  const { supabase, load, keep = () => true, onTickets, onEvent, onStatus, refreshEvery = 60_000 } = options
  const { onError = (error) => console.error(error) } = options
  const topics = [options.topics].flat()
  for (const topic of topics) {
    if (supabase.getChannels().some((channel) => channel.topic === `realtime:${topic}`)) {
      throw new Error(`this client has joined ${topic} already`)
    }
  }

  const list = new TicketList({ hasSensitiveTopic: topics.some((topic) => topic.endsWith(':sensitive')) })
  const seen = new Set() // the ids of the newest messages, because replay repeats some
  let reading // the events that arrived during the current read
  let readAgain = false
  let failedReads = 0
  let readTimer
  let readDue = Infinity
  let showTimer
  let stopped = false

  /** An error of the page's own code must not stop the updates. */
  function call(callback, value) {
    if (stopped || !callback) return
    try {
      callback(value)
    } catch (error) {
      if (callback === onError) console.error(error)
      else call(onError, error)
    }
  }

  function show() {
    // Many events in a row are shown once.
    showTimer ??= setTimeout(() => {
      showTimer = undefined
      call((tickets) => onTickets?.(tickets.filter(keep)), list.tickets)
    }, 20)
  }

  function readIn(milliseconds) {
    const due = Date.now() + milliseconds
    if (stopped || due >= readDue) return
    clearTimeout(readTimer)
    readDue = due
    readTimer = setTimeout(read, milliseconds)
  }

  /** After an event that every page receives at the same time. */
  const readSoon = () => readIn(500 + 1500 * Math.random())

  async function read() {
    clearTimeout(readTimer)
    readDue = Infinity
    if (stopped) return
    if (reading) {
      readAgain = true
      return
    }
    reading = []
    const aborter = new AbortController()
    let next = refreshEvery * (0.9 + Math.random() / 5)
    try {
      const asked = Promise.resolve(load({ signal: aborter.signal }))
      const answer = await within(READ_TIMEOUT, asked, () => aborter.abort())
      const rows = Array.isArray(answer) ? answer : answer?.data
      if (!Array.isArray(rows)) throw answer?.error ?? new Error('load returned no rows')
      if (stopped) return
      failedReads = 0
      if (list.replace(rows, reading)) readSoon()
      show()
    } catch (error) {
      next = Math.min(next, pause(failedReads++))
      call(onError, error)
    } finally {
      reading = undefined
    }
    readIn(readAgain ? 0 : next)
    readAgain = false
    watched.forEach((topic) => topic.check())
  }

  function onMessage(topic, { event, payload, meta }) {
    if (stopped || typeof payload !== 'object' || payload === null) return
    const id = meta?.id ?? payload.id
    if (id !== undefined) {
      const key = `${topic} ${id}`
      if (seen.has(key)) return
      seen.add(key)
      if (seen.size > REMEMBERED_MESSAGES) seen.delete(seen.values().next().value)
    }
    const replayed = Boolean(meta?.replayed)
    // The list is read after each replay, so that it needs no events of the past.
    if (!replayed) {
      reading?.push(payload)
      if (list.apply(payload)) readSoon()
      show()
    }
    call(onEvent, { topic, event, payload, replayed })
  }

  const watched = topics.map((topic) =>
    watchTopic({
      supabase,
      topic,
      onMessage: (message) => onMessage(topic, message),
      onLive: read,
      onStatus: (status) => call(onStatus, status),
    }),
  )

  const page = globalThis.document
  function onVisible() {
    if (page.visibilityState !== 'visible') return
    watched.forEach((topic) => topic.wake())
    read()
  }
  page?.addEventListener('visibilitychange', onVisible)
  read()

  return {
    refresh: read,
    stop() {
      stopped = true
      clearTimeout(readTimer)
      clearTimeout(showTimer)
      page?.removeEventListener('visibilitychange', onVisible)
      watched.forEach((topic) => topic.stop())
    },
  }
}
