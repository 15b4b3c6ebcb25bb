"""Weaviate's own hybrid query over the same objects, for comparison: any of the words counts by BM25, and Weaviate
fuses by itself. The program does not use it: it knows no order by time, and Postgres has nothing like it.
"""

from bench.quality.metrics import RECALL_AT
from bench.quality.systems import Place, Ranking
from search.matching import expression
from search.model import Vector
from search.query import parse
from search.weaviate import weaviate
from search.weaviate.index import PREFIX, WeaviateIndex
from search.weaviate.link import Client
from search.weaviate.schema import collection_of, ranked_by

RULES = {
    "Weaviate's hybrid, relative scores, words 0.3": (0.7, weaviate.classes.query.HybridFusion.RELATIVE_SCORE),
    "Weaviate's hybrid, relative scores, words 0.5": (0.5, weaviate.classes.query.HybridFusion.RELATIVE_SCORE),
    "Weaviate's hybrid, ranks, words 0.5": (0.5, weaviate.classes.query.HybridFusion.RANKED),
}
"""`alpha`, which is the share of meaning (0.7 is Weaviate's default), and how it fuses."""


async def hybrid(place: Place, index: WeaviateIndex, text: str, vector: Vector, rule: str) -> Ranking:
    alpha, fusion = RULES[rule]
    wanted = expression(parse(text), place.languages)
    (edition,) = await index._editions.open()
    name = collection_of(PREFIX, edition)

    async def work(client: Client) -> Ranking:
        answer = await client.collections.get(name).with_tenant(place.tenant).query.hybrid(
            query=ranked_by(wanted), query_properties=["tokens"], vector=vector.tolist(), alpha=alpha,
            fusion_type=fusion, limit=RECALL_AT, return_properties=["segment_id"],
        )  # fmt: skip
        return [str(one.properties["segment_id"]) for one in answer.objects]

    return await index._link.call(work)
