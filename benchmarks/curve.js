// @ts-check
/**
 * What the arithmetic of a connection costs: libsignal's JavaScript and OpenSSL against the
 * WebAssembly that engine/node/curve.js puts in their place. Prints a table.
 *
 *     node benchmarks/curve.js
 */
import { randomBytes } from 'node:crypto'
import { createRequire } from 'node:module'

const engine = new URL('../whatsapp/engine/node/', import.meta.url)
const require = createRequire(new URL('main.js', engine))
const curve = require('libsignal/src/curve.js')
const WARM_UP = 20
const RUNS = 200

const message = randomBytes(100)
const [mine, theirs] = [curve.generateKeyPair(), curve.generateKeyPair()]
const signature = curve.calculateSignature(mine.privKey, message)

const calls = {
  sign: () => curve.calculateSignature(mine.privKey, message),
  verify: () => curve.verifySignature(mine.pubKey, message, signature),
  'key pair': () => curve.generateKeyPair(),
  agreement: () => curve.calculateAgreement(theirs.pubKey, mine.privKey),
}

/** @param {() => unknown} call @returns {number} the median in ms */
function median(call) {
  for (let run = 0; run < WARM_UP; run++) call()
  const times = Array.from({ length: RUNS }, () => {
    const began = performance.now()
    call()
    return performance.now() - began
  })
  return times.sort((one, other) => one - other)[RUNS / 2]
}

const libsignal = Object.values(calls).map(median)
await import(new URL('curve.js', engine).href)
const compiled = Object.values(calls).map(median)
console.log(`${'median, ms'.padEnd(12)}${'libsignal'.padStart(10)}${'compiled'.padStart(10)}${'ratio'.padStart(7)}`)
Object.keys(calls).forEach((name, at) => {
  const [before, after] = [libsignal[at], compiled[at]]
  const ratio = (after / before).toFixed(2)
  console.log(`${name.padEnd(12)}${before.toFixed(3).padStart(10)}${after.toFixed(3).padStart(10)}${ratio.padStart(7)}`)
})
