// Long lists, of which the newest are shown, and the older ones where one goes on.
import { html } from "../html.js";
import { useData } from "../data.js";
import { to } from "../route.js";

/** A page of what has numbers, the newest first; with what the news tell of these, and of newer ones on the first page. */
export function useNumbered(resource, after, everyMs, news) {
  const { data, next, error } = useData(`${resource}${after ? `?after=${after}` : ""}`, everyMs);
  const rows = new Map((data ?? []).map((row) => [row.id, row]));
  const [above, least] = [Number(after || Infinity), Number(next ?? 0)];
  for (const told of news) if (told.id < above && told.id >= least) rows.set(told.id, told);
  return { rows: [...rows.values()].sort((a, b) => b.id - a.id), read: !!data, next, error };
}

/** Where a list goes on; `older` as the API tells it. */
export const Pages = ({ place, query = {}, after, older }) => html`<p class="pages">
  ${after && html`<a href=${to([place], query)}>Newest</a>`}${older && html`<a href=${to([place], { ...query, after: older })} rel="next">Older</a>`}</p>`;
