// What can be done with a move, as it stands.
import { to } from "../route.js";
import { plain } from "./command.js";

/** Steps before the decision, in which a move can be paused. */
const PAUSABLE = ["begin", "arm", "turn_round", "schema", "copy", "build", "compare", "catch_up", "restart"];

export function moveActions(move, reload) {
  const { state, step, paused, abort_requested: ending } = move;
  const running = state === "running";
  const pausable = running && !ending && PAUSABLE.includes(step);
  return [
    pausable && !paused && pause(move, reload),
    running && paused && act(move, "resume", reload, { label: "Resume", title: `Resume move ${move.id}?`, what: "It goes on where it stands." }),
    (pausable || (running && !ending && step === "cutover")) && abort(move, reload),
    state === "switched" && move.reversible_until && reverse(move),
    state === "switched" && complete(move, reload),
  ].filter(Boolean);
}

const act = ({ id }, verb, reload, more) => plain(more.label, { words: ["move", verb, id], path: `moves/${id}/${verb}`, then: reload, ...more });

const pause = (move, reload) => act(move, "pause", reload, {
  label: "Pause", title: `Pause move ${move.id}?`, body: { by: "page" },
  what: "It stands still, as far as it has come, until it is resumed. The source keeps its log for it meanwhile, which takes disk.",
});

const abort = (move, reload) => act(move, "abort", reload, {
  label: "Abort", danger: true, title: `Abort move ${move.id}?`,
  what: `What it copied is removed from ${move.to}; tenant ${move.tenant} stays on ${move.from}, and its clients notice nothing.${
    move.step === "cutover" ? " It is in its cutover, which ends by itself: it may come too late." : ""}`,
});

const reverse = (move) => act(move, "reverse", null, {
  label: "Reverse", title: `Turn move ${move.id} round?`,
  what: `Tenant ${move.tenant} goes back to ${move.from} by a short cutover, with all that was written on ${move.to} since. Nothing is copied anew.`,
  then: (back) => to(["moves", String(back.id)]),
});

const complete = (move, reload) => act(move, "complete", reload, {
  label: "Complete", danger: true, title: `Complete move ${move.id} now?`,
  what: `The old copy on ${move.from} is dropped before its time, and the move can't be turned round any more.`,
});
