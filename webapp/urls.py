"""The addresses."""

from __future__ import annotations

from django.contrib import admin
from django.contrib.auth.views import LoginView
from django.urls import path

from webapp import views
from webapp.api import api_urls

urlpatterns = [
    path("", views.searches, name="searches"),
    path("compare/", views.compare, name="compare"),
    path("searches/new/", views.search_new, name="search_new"),
    path("searches/new/outlook/", views.search_outlook, name="search_outlook"),
    path("searches/new/models/", views.model_names, name="model_names"),
    path("searches/demo/", views.search_demo, name="search_demo"),
    path("searches/<uuid:pk>/", views.search_detail, name="search_detail"),
    path("searches/<uuid:pk>/events/", views.search_events, name="search_events"),
    path("searches/<uuid:pk>/cancel/", views.search_told, {"wish": "cancel"}, name="search_cancel"),
    path("searches/<uuid:pk>/pause/", views.search_told, {"wish": "pause"}, name="search_pause"),
    path("searches/<uuid:pk>/resume/", views.search_told, {"wish": "resume"}, name="search_resume"),
    path("searches/<uuid:pk>/stop/", views.search_told, {"wish": "stop"}, name="search_stop"),
    path("searches/<uuid:pk>/keep/", views.search_told, {"wish": "keep"}, name="search_keep"),
    path("searches/<uuid:pk>/describe/", views.search_describe, name="search_describe"),
    path("searches/<uuid:pk>/try/", views.search_try, name="search_try"),
    path("searches/<uuid:pk>/delete/", views.search_delete, name="search_delete"),
    path("searches/<uuid:pk>/share/", views.search_share, name="search_share"),
    path("searches/<uuid:pk>/share/<int:number>/revoke/", views.share_link_revoke, name="share_link_revoke"),
    path("shared/<str:token>/", views.shared, name="shared"),
    path("shared/<str:token>/events/", views.shared_events, name="shared_events"),
    path("searches/<uuid:pk>/log", views.search_log, name="search_log"),
    path("searches/<uuid:pk>/files.zip", views.search_files, name="search_files"),
    path("searches/<uuid:pk>/files/<path:name>", views.search_file, name="search_file"),
    path("datasets/", views.datasets, name="datasets"),
    path("datasets/<uuid:pk>/", views.dataset_detail, name="dataset_detail"),
    path("datasets/<uuid:pk>/delete/", views.dataset_delete, name="dataset_delete"),
    path("datasets/<uuid:pk>/thumbnails/<str:name>", views.dataset_thumbnail, name="dataset_thumbnail"),
    path("weights/", views.weights, name="weights"),
    path("weights/<uuid:pk>/delete/", views.weights_delete, name="weights_delete"),
    path("tokens/", views.tokens, name="tokens"),
    path("tokens/webhook/", views.webhook_set, name="webhook_set"),
    path("tokens/webhook/remove/", views.webhook_remove, name="webhook_remove"),
    path("tokens/<int:pk>/revoke/", views.token_revoke, name="token_revoke"),
    path("accounts/login/", LoginView.as_view(redirect_authenticated_user=True), name="login"),
    path("accounts/logout/", views.SignOut.as_view(), name="logout"),
    path("sign-in/<str:token>/", views.sign_in, name="sign_in"),
    path("healthz", views.healthz, name="healthz"),
    path("metrics", views.metrics, name="metrics"),
    path("api/v1/", api_urls()),
    path("admin/", admin.site.urls),
]
