"""The pages. A view finds its row among the user's own, calls one service or selector, and shows a template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any
from uuid import UUID

from csp.decorators import csp_update
from django.contrib import messages
from django.contrib.auth import login
from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.models import User
from django.contrib.auth.views import LogoutView, redirect_to_login
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.cache import cache_control, never_cache
from django.views.decorators.http import conditional_page, require_GET, require_http_methods, require_POST, require_safe
from ninja.errors import AuthenticationError
from prometheus_client import CONTENT_TYPE_LATEST

from nasengine import models
from nasengine.errors import ConfigError
from webapp import comparison, health, once, relay, selectors, services, trial
from webapp import metrics as figures
from webapp.again import again, recipes
from webapp.api import Token
from webapp.charts import charts_of
from webapp.files import all_files, one_file
from webapp.forms import DescribeForm, NewSearchForm, ShareForm, TokenForm, UploadForm, WebhookForm, WeightsForm
from webapp.judgement import judgement
from webapp.listing import ListForm
from webapp.models import (
    RESULT,
    WEIGHTS,
    ApiToken,
    Artifact,
    Dataset,
    Delivery,
    Search,
    Survey,
    SurveyState,
    Webhook,
    Weights,
)

PAGE_SIZE = 25


class OwnedRequest(HttpRequest):
    """A request behind LoginRequiredMiddleware."""

    user: User


# Searches


@require_safe
def searches(request: OwnedRequest) -> HttpResponse:
    form = ListForm(request.GET, owner=request.user)
    page = Paginator(form.found(), PAGE_SIZE).get_page(request.GET.get("page"))
    return render(request, "searches/list.html", {"searches": page, "form": form})


@require_http_methods(["GET", "HEAD", "POST"])
def search_new(request: OwnedRequest) -> HttpResponse:
    data = request.POST if request.method == "POST" else None
    form = NewSearchForm(
        data,
        owner=request.user,
        dataset=request.GET.get("dataset"),
        weights=request.GET.get("weights"),
        teacher=request.GET.get("teacher"),
    )
    context = {
        "form": form,
        "datasets": selectors.datasets_of(request.user),
        "weights": selectors.weights_of(request.user),
    }
    if form.is_bound and form.is_valid():
        try:
            return redirect(services.search_create(owner=request.user, asked=form.asked))
        except ConfigError as error:
            form.add_problems(error.problems)
    elif form.is_bound:
        context["survey"] = survey = _survey_of(request, form)
        if survey:
            form.add_problems([("space.model", survey.sentence)])
    elif "from" in request.GET:
        (model,) = _own_searches(request, [request.GET["from"]])
        unsaid = form.fill(again(model, target=request.GET.get("target", "").strip()))
        context |= {"model": model, "unsaid": unsaid}
    return render(request, "searches/new.html", context, status=422 if form.is_bound else 200)


def _survey_of(request: OwnedRequest, form: NewSearchForm) -> Survey | None:
    """How it stands with the model of which the form has to know what may be cut; None if it waits for nothing."""
    if form.unsurveyed is None:
        return None
    try:
        return services.survey_want(owner=request.user, subject=form.unsurveyed, again="look_again" in request.POST)
    except services.Refused as refusal:
        form.add_problems([("space.model", str(refusal))])
        return None


@require_safe
@cache_control(private=True, max_age=86_400)
@conditional_page
def model_names(request: OwnedRequest) -> JsonResponse:
    """What the libraries have, for the form to choose from."""
    return JsonResponse({library: models.names(library) for library in models.LIBRARIES})


def _own_searches(request: OwnedRequest, given: Sequence[str]) -> list[Search]:
    """The searches of these ids of a query string, in their order; a 404 if one of them is not this user's."""
    try:
        ids = [UUID(each) for each in given]
    except ValueError:
        raise Http404 from None
    found = Search.objects.filter(owner=request.user).in_bulk(ids)
    if set(found) != set(ids):
        raise Http404
    return [found[pk] for pk in ids]


@require_safe
def compare(request: OwnedRequest) -> HttpResponse:
    """Several of one's own searches side by side, by `?search=<id>&search=<id>`."""
    given = list(dict.fromkeys(request.GET.getlist("search")))
    context: dict[str, Any] = {"fewest": comparison.FEWEST, "most": comparison.MOST, "given": len(given)}
    if not comparison.FEWEST <= len(given) <= comparison.MOST:
        return render(request, "searches/compare.html", context, status=422)
    searches = _own_searches(request, given)
    ways, members = comparison.ways(searches), comparison.members(searches)
    drawn = {
        "searches": [{"name": search.name, "url": search.url} for search in searches],
        "ways": [
            {"searching": comparison.thinned(way.searching), "training": comparison.thinned(way.training)}
            for way in ways
        ],
        "members": [asdict(member) for member in members],
        "pictures": comparison.pictures(searches),
    }
    context |= {
        "searches": searches,
        "is_mixed": len({search.dataset_label for search in searches}) > 1,
        "drawn": drawn,
        "figures": comparison.figure_rows(searches),
        "settings": comparison.setting_rows(searches),
        "way_rows": comparison.way_rows(ways),
        "members": [(member, searches[member.place]) for member in members],
    }
    return render(request, "searches/compare.html", context)


@require_POST
def search_outlook(request: OwnedRequest) -> JsonResponse:
    """What the form's fields would lead to, without starting anything."""
    form = NewSearchForm(request.POST, owner=request.user)
    form.full_clean()
    survey = _survey_of(request, form)
    if survey and survey.state == SurveyState.REFUSED:
        form.add_problems([("space.model", survey.sentence)])
    problems = [[name, sentence] for name, sentences in form.errors.items() for sentence in sentences]
    is_feasible = not problems and survey is None
    answer: dict[str, Any] = {"feasible": is_feasible, "problems": problems, "warnings": form.warnings}
    answer["survey"] = survey and {"state": survey.state, "sentence": survey.sentence}
    answer["greys"] = form.greys
    outlook = form.asked.outlook if hasattr(form, "asked") else None
    for name in ("metric", "full_size", "smallest_size", "target", "limits", "reach", "choices", "estimate"):
        answer[name] = getattr(outlook, name, None)
    answer["also"] = form.asked.further_targets if outlook else []
    answer["cuttable"] = form.asked.subject and form.asked.subject.facts if outlook else None
    answer["time"] = selectors.time_of(request.user, form.asked) if outlook else None
    return JsonResponse(answer)


@require_POST
def search_demo(request: OwnedRequest) -> HttpResponse:
    """The digits, in two minutes, with nothing to choose."""
    return redirect(services.search_demo(owner=request.user))


@require_safe
@csp_update({"script-src": ["'wasm-unsafe-eval'"]})  # type: ignore[arg-type]  # found networks are run there
def search_detail(request: OwnedRequest, pk: UUID) -> HttpResponse:
    search = get_object_or_404(Search, pk=pk, owner=request.user)
    artifacts = list(search.artifacts.all())
    context = {
        **_shown(search, f"/ws/searches/{search.pk}/", reverse("search_events", args=[search.pk])),
        "artifacts": [artifact for artifact in artifacts if artifact.folder == RESULT],
        "weights_files": {artifact.folder: artifact.url for artifact in artifacts if artifact.file == WEIGHTS},
        "family": selectors.family_rows(search, artifacts),
        "trial": trial.offer(search, artifacts),
        "judged": judgement(search.report, selectors.sheet_of(search, {file.name: file for file in artifacts})),
        "log_tail": selectors.log_tail(search),
        "share_links": selectors.share_links_of(search),
        "share_form": ShareForm(),
        "describe_form": DescribeForm.of(search),
        "elsewhere": recipes(search, address=request.build_absolute_uri("/api/v1/searches")),
    }
    return render(request, "searches/detail.html", context)


@require_safe
@never_cache
def search_events(request: OwnedRequest, pk: UUID) -> JsonResponse:
    """The feed of the socket for those whose sockets are blocked."""
    return _fed(request, selectors.search_of(request.user.pk, pk))


def _fed(request: HttpRequest, visible: QuerySet[Search], *, to_owner: bool = True) -> JsonResponse:
    try:
        after, rewinds = (max(0, int(request.GET.get(name) or 0)) for name in ("after", "rewinds"))
    except ValueError:
        return JsonResponse({"message": "after and rewinds are whole numbers, such as ?after=12&rewinds=0"}, status=400)
    feed = selectors.search_feed(of=visible, after=after, rewinds=rewinds, to_owner=to_owner)
    if feed is None:
        raise Http404
    return JsonResponse(
        {
            "rewind": feed.rewind,
            "events": feed.events,
            "last_seq": feed.last_seq,
            "more": feed.more,
            "state": feed.state,
        }
    )


def _shown(search: Search, socket: str, events: str, *, to_owner: bool = True) -> dict[str, Any]:
    """What its owner and whoever has a link to it see of a search."""
    feed = {
        "id": str(search.pk),
        "after": 0,
        "socket": socket,
        "events": events,
        "charts": charts_of(search.operations_word, **search.config["strategy"]),
        "state": selectors.state_frame(search, to_owner=to_owner),
    }
    report = search.report if to_owner else selectors.for_others(search.report)
    told = selectors.changes_of(search.config["strategy"], report, search.operations_word) if report else {}
    return {
        "search": search,
        "config": {**search.config, "name": search.name},
        "feed": feed,
        "report": report,
        "asked": selectors.said(search.config),
        "block_ends": selectors.block_ends(search.config),
        **told,
    }


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
def search_share(request: OwnedRequest, pk: UUID) -> HttpResponse:
    """Makes a link, and shows it once."""
    search = get_object_or_404(Search, pk=pk, owner=request.user)
    if request.method != "POST":
        return _new_link(request, search)
    form = ShareForm(request.POST)
    if not form.is_valid():
        messages.error(request, "A link is shown for a day, a week, a month or a year; choose one of them.")
        return redirect(search)
    try:
        token = services.search_share(search=search, days=form.cleaned_data["days"])
    except services.Refused as refusal:
        messages.error(request, str(refusal))
        return redirect(search)
    return once.hand_over(redirect(request.path), user=request.user, page=request.path, name="link", secret=token)


def _new_link(request: OwnedRequest, search: Search) -> HttpResponse:
    token = once.handed_over(request, user=request.user, name="link")
    link = selectors.share_links_of(search).filter(token_hash=selectors.token_hash(token)).first()
    if link is None:
        messages.info(request, "A link is shown once, when it is made; make another if you need it again.")
        return redirect(search)
    address = request.build_absolute_uri(reverse("shared", args=[token]))
    answer = render(request, "searches/link.html", {"search": search, "link": link, "address": address})
    return once.shown(answer, request=request, names=("link",))


@require_POST
def share_link_revoke(request: OwnedRequest, pk: UUID, number: int) -> HttpResponse:
    search = get_object_or_404(Search, pk=pk, owner=request.user)
    services.share_link_revoke(link=get_object_or_404(search.share_links, pk=number))
    messages.success(request, "The link was revoked: it shows nothing any more.")
    return redirect(search)


@login_not_required
@require_safe
@never_cache
def shared(request: HttpRequest, token: str) -> HttpResponse:
    """One search, to look at, for whoever has the link."""
    search = get_object_or_404(selectors.search_shared(token))
    context = _shown(search, f"/ws/shared/{token}/", reverse("shared_events", args=[token]), to_owner=False)
    context["weights_files"] = {}
    family = selectors.family_rows(search, ())
    answer = render(
        request,
        "searches/detail.html",
        {**context, "is_shared": True, "family": family, "judged": judgement(search.report, None)},
    )
    answer["X-Robots-Tag"] = "noindex"
    return answer


@login_not_required
@require_safe
@never_cache
def shared_events(request: HttpRequest, token: str) -> JsonResponse:
    return _fed(request, selectors.search_shared(token), to_owner=False)


@require_POST
def search_told(request: OwnedRequest, pk: UUID, wish: str) -> HttpResponse:
    """What its owner asks of a search: one of the services of that name."""
    search = get_object_or_404(Search, pk=pk, owner=request.user)
    try:
        services.WISHES[wish](search=search)
    except services.Refused as refusal:
        messages.error(request, str(refusal))
    return redirect(search)


@require_http_methods(["GET", "HEAD", "POST"])
def search_describe(request: OwnedRequest, pk: UUID) -> HttpResponse:
    """Its name, note and tags, on a page of their own if something is wrong with them."""
    search = get_object_or_404(Search, pk=pk, owner=request.user)
    form = DescribeForm(request.POST) if request.method == "POST" else DescribeForm.of(search)
    if form.is_bound and form.is_valid():
        given = form.cleaned_data
        try:
            services.search_describe(
                search=search, name=given["name"], note=given["note"], tags=given["tags"].split(",")
            )
        except ConfigError as error:
            for field, sentence in error.problems:
                form.add_error(field, sentence)
        else:
            return redirect(search)
    context = {"search": search, "describe_form": form}
    return render(request, "searches/describe.html", context, status=422 if form.is_bound else 200)


@require_POST
@never_cache
def search_try(request: OwnedRequest, pk: UUID) -> JsonResponse:
    """What a found network says of an image, for browsers that cannot run it."""
    search = get_object_or_404(Search, pk=pk, owner=request.user)
    folder = request.POST.get("network") or RESULT
    try:
        return JsonResponse(trial.answer(search=search, folder=folder, file=request.FILES.get("image")))
    except Artifact.DoesNotExist:
        return JsonResponse({"message": "This search has no such network to try."}, status=409)
    except services.Refused as refusal:
        return JsonResponse({"message": str(refusal)}, status=422)


@require_POST
def search_delete(request: OwnedRequest, pk: UUID) -> HttpResponse:
    search = get_object_or_404(Search, pk=pk, owner=request.user)
    try:
        services.search_delete(search=search)
    except services.Refused as refusal:
        messages.error(request, str(refusal))
        return redirect(search)
    messages.success(request, f"'{search.name}' was deleted.")
    return redirect("searches")


@require_safe
def search_file(request: OwnedRequest, pk: UUID, name: str) -> HttpResponseBase:
    """A file of a found network."""
    return one_file(request, get_object_or_404(Search, pk=pk, owner=request.user), name)


@require_safe
def search_files(request: OwnedRequest, pk: UUID) -> HttpResponseBase:
    """All of them in a zip."""
    return all_files(request, get_object_or_404(Search, pk=pk, owner=request.user))


@require_safe
@never_cache
def search_log(request: OwnedRequest, pk: UUID) -> HttpResponse:
    """What its engines have said on stderr, as text."""
    search = get_object_or_404(Search, pk=pk, owner=request.user)
    content = selectors.log_text(search)
    if not content:
        raise Http404
    named = {"Content-Disposition": f'attachment; filename="{search.pk}.log"'}
    return HttpResponse(content, content_type="text/plain; charset=utf-8", headers=named)


# Data sets


@require_http_methods(["GET", "HEAD", "POST"])
def datasets(request: OwnedRequest) -> HttpResponse:
    form = UploadForm(request.POST, request.FILES) if request.method == "POST" else UploadForm()
    if form.is_bound and form.is_valid():
        given = form.cleaned_data
        try:
            return redirect(services.dataset_upload(owner=request.user, name=given["name"], file=given["file"]))
        except services.Refused as refusal:
            form.add_error("file", str(refusal))
    context = {"datasets": selectors.datasets_of(request.user), "upload_form": form}
    return render(request, "datasets/list.html", context, status=422 if form.is_bound else 200)


@require_safe
def dataset_detail(request: OwnedRequest, pk: UUID) -> HttpResponse:
    dataset = get_object_or_404(Dataset, pk=pk, owner=request.user)
    class_rows = [
        (name, counts, [reverse("dataset_thumbnail", args=[dataset.pk, file]) for file in files])
        for name, counts, files in selectors.dataset_class_rows(dataset)
    ]
    context = {"dataset": dataset, "class_rows": class_rows, "left_out": dataset.left_out}
    return render(request, "datasets/detail.html", context)


@require_POST
def dataset_delete(request: OwnedRequest, pk: UUID) -> HttpResponse:
    dataset = get_object_or_404(Dataset, pk=pk, owner=request.user)
    try:
        services.dataset_delete(dataset=dataset)
    except services.Refused as refusal:
        messages.error(request, str(refusal))
        return redirect(dataset)
    messages.success(request, f"'{dataset.name}' was deleted.")
    return redirect("datasets")


@require_safe
def dataset_thumbnail(request: OwnedRequest, pk: UUID, name: str) -> HttpResponse:
    dataset = get_object_or_404(Dataset, pk=pk, owner=request.user)
    if not selectors.THUMBNAIL.fullmatch(name):
        raise Http404
    try:
        content = (selectors.packed_folder(dataset.pk) / "thumbnails" / name).read_bytes()
    except FileNotFoundError:
        raise Http404 from None
    return HttpResponse(content, content_type="image/png", headers={"Cache-Control": "private, max-age=86400"})


# Weights


@require_http_methods(["GET", "HEAD", "POST"])
def weights(request: OwnedRequest) -> HttpResponse:
    """One's own, and the form for more, which leads to a search that they begin, or teach (`?for=teacher`)."""
    query = _for_whom(request)
    begins = "teacher" if query else "weights"
    form = WeightsForm(request.POST, request.FILES) if request.method == "POST" else WeightsForm()
    if form.is_bound and form.is_valid():
        given = form.cleaned_data
        try:
            new = services.weights_upload(owner=request.user, name=given["name"], file=given["file"])
        except services.Refused as refusal:
            form.add_error("file", str(refusal))
        else:
            return redirect(f"{reverse('search_new')}?{begins}={new.reference}")
    context = {"weights": selectors.weights_of(request.user), "upload_form": form, "begins": begins, "query": query}
    return render(request, "weights.html", context, status=422 if form.is_bound else 200)


@require_POST
def weights_delete(request: OwnedRequest, pk: UUID) -> HttpResponse:
    chosen = get_object_or_404(Weights, pk=pk, owner=request.user)
    try:
        services.weights_delete(weights=chosen)
    except services.Refused as refusal:
        messages.error(request, str(refusal))
    else:
        messages.success(request, f"'{chosen.name}' was deleted.")
    return redirect(f"{reverse('weights')}{_for_whom(request)}")


def _for_whom(request: OwnedRequest) -> str:
    """The query string of the page of weights: of who came there for a teacher's, it says so."""
    return "?for=teacher" if request.GET.get("for") == "teacher" else ""


# API tokens


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
def tokens(request: OwnedRequest) -> HttpResponse:
    """One's own tokens. What is new, a token or a webhook's secret, is shown once."""
    if request.method != "POST":
        names = ("token", "secret")
        new = {name: once.handed_over(request, user=request.user, name=name) for name in names}
        answer = render(request, "tokens.html", _tokens_context(request) | new)
        return once.shown(answer, request=request, names=tuple(name for name in names if new[name]))
    form = TokenForm(request.POST)
    if form.is_valid():
        try:
            token = services.api_token_create(user=request.user, name=form.cleaned_data["name"])
        except services.Refused as refusal:
            form.add_error("name", str(refusal))
        else:
            return once.hand_over(redirect("tokens"), user=request.user, page=request.path, name="token", secret=token)
    return render(request, "tokens.html", _tokens_context(request) | {"form": form}, status=422)


def _tokens_context(request: OwnedRequest) -> dict[str, Any]:
    webhook = Webhook.objects.filter(user=request.user).first()
    failed = Delivery.objects.filter(search__owner=request.user, tries__range=(1, len(services.PAUSES) - 1))
    return {
        "form": TokenForm(),
        "tokens": ApiToken.objects.filter(user=request.user),
        "address": request.build_absolute_uri("/api/v1/searches"),
        "webhook": webhook,
        "next_try": failed.order_by("due_at").values_list("due_at", flat=True).first(),
        "webhook_form": WebhookForm(initial={"address": webhook.address} if webhook else None),
    }


@require_POST
@never_cache
def webhook_set(request: OwnedRequest) -> HttpResponse:
    """The address of one's own program."""
    form = WebhookForm(request.POST)
    if form.is_valid():
        site, tokens_page = request.build_absolute_uri("/").rstrip("/"), reverse("tokens")
        try:
            secret = services.webhook_set(user=request.user, address=form.cleaned_data["address"], site=site)
        except services.Refused as refusal:
            form.add_error("address", str(refusal))
        else:
            return once.hand_over(
                redirect(f"{tokens_page}#webhook"), user=request.user, page=tokens_page, name="secret", secret=secret
            )
    return render(request, "tokens.html", _tokens_context(request) | {"webhook_form": form}, status=422)


@require_POST
def webhook_remove(request: OwnedRequest) -> HttpResponse:
    services.webhook_remove(user=request.user)
    messages.success(request, "The webhook was removed: nobody is told any more.")
    return redirect("tokens")


@require_POST
def token_revoke(request: OwnedRequest, pk: int) -> HttpResponse:
    token = get_object_or_404(ApiToken, pk=pk, user=request.user)
    services.api_token_revoke(token=token)
    messages.success(request, f"'{token.name}' was revoked: it opens nothing any more.")
    return redirect("tokens")


# Coming, going, being there


@login_not_required
@require_GET  # HEAD would use it up
@never_cache
def sign_in(request: HttpRequest, token: str) -> HttpResponse:
    """A one-time link: signs its user in."""
    user = services.sign_in_link_use(token=token)
    if user is None:
        return render(request, "sign_in_used.html", status=410)
    login(request, user, backend="django.contrib.auth.backends.ModelBackend")
    return redirect("searches")


class SignOut(LogoutView):
    """Ends the session and closes its sockets."""

    template_name = "registration/signed_out.html"

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        session_key = request.session.session_key
        response = super().post(request, *args, **kwargs)
        if session_key:
            relay.ring_off(session_key)
        return response


@login_not_required
@require_safe
@never_cache
def healthz(request: HttpRequest) -> JsonResponse:
    """How the parts are; 200 if pages can be served, else 503."""
    found = health.health()
    return JsonResponse(found, status=200 if health.can_serve(found) else 503)


@login_not_required  # a scraper shows the token of somebody of the staff
@require_safe
@never_cache
def metrics(request: HttpRequest) -> HttpResponse:
    """Figures for Prometheus; whoever is not of the staff finds nothing here."""
    try:
        scraper = Token()(request) or request.user
    except AuthenticationError:
        return HttpResponse(status=401)
    if not isinstance(scraper, User):
        return redirect_to_login(request.path)
    if not scraper.is_staff:
        raise Http404
    return HttpResponse(figures.exposition(), content_type=CONTENT_TYPE_LATEST)
